"""lora_scratch/study/ablation.py: which parts there are, what each trial is, and how it is corrected."""

from dataclasses import replace

import pytest
import torch
from support.families import record
from support.tiny import tiny_distilbert, tiny_rows

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject, scaled, without
from lora_scratch.evaluation import Predictor
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.study.ablation import Ablation, Trial, ablate, parts
from lora_scratch.tasks import SINGLE_LABEL, Paired, holm, make_task
from lora_scratch.testing import move_adapter

ROWS = tiny_rows(40)
TASK = make_task(SINGLE_LABEL, "abc")
FP32 = resolve_precision("fp32", torch.device("cpu"))


def names(*inside):
    return [f"encoder.layer.{number}.{each}" for number in (0, 1) for each in inside]


def adapted():
    """Off its start, the head too."""
    model = inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=6, dropout=0), seed=1)
    move_adapter(model, seed=1, size=0.6)
    with torch.no_grad():
        model.classifier.weight.add_(torch.randn(3, 32, generator=torch.Generator().manual_seed(1)))
    return model


def predict(model, *, plain=False):
    return lambda rows: Predictor(model, FP32, 0, plain=plain).logits(rows)


def called(found):
    return [(part.group, part.name, len(part.modules)) for part in found]


def test_parts_are_all_then_projections_layers_and_modules():
    """Two layers of three projections."""
    found = parts(names("q", "k", "v"))
    kinds = [("projection", each, 2) for each in "qkv"]
    depths = [("layer", each, 3) for each in "01"]
    assert called(found) == [("all", "updates", 6), *kinds, *depths, *(("module", each, 1) for each in names("q", "k", "v"))]
    assert found[1].modules == {"encoder.layer.0.q", "encoder.layer.1.q"}
    assert found[5].modules == set(names("q", "k", "v")[3:])


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (names("q"), [("all", "updates", 2), ("module", names("q")[0], 1), ("module", names("q")[1], 1)]),
        (names("q", "k")[:2], [("all", "updates", 2), ("module", names("q", "k")[0], 1), ("module", names("q", "k")[1], 1)]),
        (["score"], [("all", "updates", 1)]),
    ],
    ids=["one projection", "one layer", "one module"],
)
def test_no_part_is_tried_twice(modules, expected):
    """A layer of one module is that module, one projection in all is everything."""
    assert called(parts(modules)) == expected


@pytest.mark.parametrize("plain", [False, True])
def test_every_trial_is_the_model_with_its_switches(plain):
    """Against each switch turned by hand; nothing of the model is changed by it."""
    model = adapted()
    before, ask = record(model), predict(model, plain=plain)
    found = ablate(model, ask, ROWS, strengths=[0.0, 0.5, 1.0], task=TASK)
    assert record(model) == before
    whole, every = ask(ROWS), set(adapter_layers(model))
    assert [trial.kind for trial in found.trials] == [
        "without",
        *["without", "only"] * 5,
        *["without"] * 6,
        *["strength"] * 3,
    ]
    for trial in found.trials:
        part = (
            next(part for part in parts(list(every)) if (part.group, part.name) == (trial.group, trial.name))
            if (trial.kind != "strength")
            else None
        )
        if part is None:
            switch = scaled(model, float(trial.name))
        else:
            switch = without(model, part.modules if trial.kind == "without" else every - part.modules)
        with switch:
            expected = TASK.paired(whole, ask(ROWS), ROWS.labels)
        assert (trial.test.score, trial.test.fixed, trial.test.broken) == (
            expected.score,
            expected.fixed,
            expected.broken,
        )
    base = predict(tiny_distilbert(), plain=plain)(ROWS)
    assert found.baseline == TASK.measure(base, ROWS.labels).headline
    assert found.adapted == found.trials[-1].test.score
    assert found.bare == found.trials[0].test.score == found.trials[-3].test.score


def test_verdicts_are_by_holms_correction_over_all_trials():
    """No word stands on a p-value that was only the smallest of many."""
    model = adapted()
    truth = ROWS.labels.clone()
    calls = iter(range(100))

    def answers(rows):
        """Whole adapter: all right. Base: all right. Then as many rows wrong as there were calls before, up to eight."""
        wrong = min(max(next(calls) - 1, 0), 8)
        said = torch.where(torch.arange(len(rows)) < wrong, (truth + 1) % 3, truth)
        return torch.nn.functional.one_hot(said, 3).float()

    found = ablate(model, answers, ROWS, strengths=[], task=TASK)
    p_values = [trial.test.p_value for trial in found.trials]
    assert p_values[:9] == pytest.approx([2 / 2 ** min(n, 8) for n in range(1, 10)])
    assert [trial.p_holm for trial in found.trials] == pytest.approx(holm(p_values))
    words = [trial.test.word for trial in found.trials]
    assert words == ["worse" if trial.p_holm < 0.05 else "not shown" for trial in found.trials]
    assert "not shown" in words
    assert any(p < 0.05 and word == "not shown" for p, word in zip(p_values, words, strict=True))


def test_shares_of_the_gain_by_hand():
    """0.5 without any update, 0.9 with all: 0.8 without a part is a quarter lost, 0.6 with only that part a quarter kept."""
    found = Ablation(rows=10, score="accuracy", test_title="", baseline=0.2, adapted=0.9, bare=0.5, trials=[])

    def trial(kind, accuracy):
        return Trial(kind, "layer", "0", Paired(accuracy, accuracy - 0.9, 0, 0, 1.0, accuracy - 0.9, "not shown"), 1.0)

    assert found.gain == pytest.approx(0.4)
    assert found.share(trial("without", 0.8)) == pytest.approx(0.25)
    assert found.share(trial("only", 0.6)) == pytest.approx(0.25)
    assert found.share(trial("strength", 0.6)) is None
    assert replace(found, adapted=0.5).share(trial("only", 0.5)) is None
