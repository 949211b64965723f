"""Every number of the page is the one that the commands print."""

import contextlib
import io
import json

import pytest
import torch
from support.command_line import call
from support.task_jobs import MULTI_LABEL, NUMBER, PAIR

from lora_scratch.adapter import adapter_layers, scaled, without
from lora_scratch.arithmetic.operations import recompress
from lora_scratch.arithmetic.update import install_update, take_update
from lora_scratch.commands import inspect_adapter, predict
from lora_scratch.evaluation import Report
from lora_scratch.play.directions import keep_directions
from lora_scratch.play.state import State
from lora_scratch.runs import open_adapter
from lora_scratch.runs.trained_adapter import open_base_of
from lora_scratch.study.explain import explain

SINGLE = "single"
KINDS = (SINGLE, MULTI_LABEL, NUMBER, PAIR)


@pytest.mark.parametrize("kind", KINDS)
def test_page_says_what_predict_writes(kind, playground, folders, texts, capsys):
    """The answer as trained, for every task; predict merges, so up to rounding."""
    text, pair = texts[kind]
    assert call(predict, folders[kind], text, *([] if pair is None else ["--pair", pair])) == 0
    written = json.loads(capsys.readouterr().out)
    adapted = playground.answer(State(kind, text, pair))["adapted"]
    scores = written.get("scores") or {playground.adapters[kind].task.labels[0]: written["score"]}
    assert adapted["scores"] == pytest.approx(scores, abs=2e-6)
    assert adapted["chosen"] == (None if kind == NUMBER else playground.adapters[kind].task.chosen(written))


@pytest.mark.parametrize("kind", KINDS)
def test_page_shows_what_explain_computes(kind, playground, folders, texts):
    """Base, adapted, tokens and every step of the module moved most: the same bits."""
    text, pair = texts[kind]
    expected = explain(open_adapter(folders[kind]), text, pair=pair)
    shown = playground.answer(State(kind, text, pair))
    assert (shown["module"], shown["tokens"]) == (expected.name, list(expected.rows))
    assert shown["adapted"]["scores"] == expected.scores["adapter"]
    assert shown["base"]["scores"] == expected.scores["without the adapter"]
    assert shown["moved"] == expected.trace.moved().tolist()
    assert shown["row"] == expected.trace.moved().argmax()
    for step, (symbol, value) in zip(shown["steps"], expected.trace.steps.items(), strict=True):
        own = value[shown["row"]]
        assert (step["symbol"], step["shape"]) == (symbol, list(value.shape))
        assert (step["norm"], step["row_norm"], step["numbers"]) == (value.norm(), own.norm(), own[:8].tolist())


def test_grid_shows_what_inspect_writes(playground, folders, tmp_path, capsys):
    """‖ΔW‖ / ‖W‖ of every module."""
    assert call(inspect_adapter, folders[SINGLE], "--json", tmp_path / "anatomy.json") == 0
    written = json.loads((tmp_path / "anatomy.json").read_text(encoding="utf-8"))["modules"]
    modules = playground.adapters[SINGLE].description(SINGLE)["modules"]
    assert {m["name"]: m["norm"] for m in modules} == {m["name"]: m["relative_norm"] for m in written}
    capsys.readouterr()


@pytest.mark.parametrize("strength", [-0.5, 0, 0.5, 2])
@pytest.mark.parametrize("some_off", [False, True])
def test_strength_and_switches_are_those_of_the_package(strength, some_off, playground, folders, texts):
    """As in `scaled` and `without`, together; the module that is shown too."""
    saved, (text, _) = open_adapter(folders[SINGLE]), texts[SINGLE]
    names = list(adapter_layers(saved.base.model))[:3] if some_off else []
    with scaled(saved.base.model, strength), without(saved.base.model, names):
        expected = explain(saved, text, module=names[0] if names else None)
    shown = playground.answer(State(SINGLE, text, strength=strength, off=tuple(names), module=expected.name))
    assert shown["adapted"]["scores"] == expected.scores["adapter"]
    assert [step["norm"] for step in shown["steps"]] == [value.norm() for value in expected.trace.steps.values()]


@pytest.mark.parametrize("rank", [1, 2])
def test_rank_dial_keeps_the_directions_that_combine_keeps(rank, playground, folders, texts):
    """The nearest update of this rank, as `combine --rank` writes it."""
    saved, (text, _) = open_adapter(folders[SINGLE]), texts[SINGLE]
    update, _ = recompress(take_update(saved.base.model), rank)
    base = open_base_of(saved.provenance, saved.provenance.base.name)
    install_update(base.model.eval(), update)
    ids = base.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        expected = saved.task.answers(base.model(**ids).logits.double())[0]["scores"]
    adapted = playground.answer(State(SINGLE, text, rank=rank))["adapted"]["scores"]
    assert adapted == pytest.approx(expected, abs=2e-6)
    assert adapted != playground.answer(State(SINGLE, text))["adapted"]["scores"]


def test_share_that_the_directions_hold_is_one_at_the_full_rank(playground):
    """Rising with the rank."""
    kept = playground.adapters[SINGLE].description(SINGLE)["kept"]
    assert kept == sorted(kept)
    assert kept[-1] == pytest.approx(1)
    assert len(kept) == 3


def test_one_number_is_the_sum_of_its_terms(playground, texts):
    """y[i] = base[i] + s · Σₖ low[k] · B[i, k]."""
    one = playground.answer(State(SINGLE, texts[SINGLE][0], strength=0.5))["one"]
    update = one["scaling"] * sum(low * b for low, b in zip(one["low"], one["B"], strict=True))
    assert one["update"] == pytest.approx(update, rel=1e-12)
    assert one["y"] == pytest.approx(one["base"] + update, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changed", [False, True])
def test_copied_python_prints_the_same_numbers(kind, changed, playground, texts):
    """The code runs on its own, in every state."""
    text, pair = texts[kind]
    module = playground.adapters[kind].summaries[1].name
    state = State(kind, text, pair, strength=1.5, rank=2, off=(module,), row=1) if changed else State(kind, text, pair)
    shown, printed = playground.answer(state), io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(shown["code"], {})  # noqa: S102  (that is what the button is for)
    base, adapted, *lines = printed.getvalue().splitlines()
    assert base == f"without the adapter {shown['base']['chosen']} {shown['base']['scores']}"
    assert adapted == f"adapter {shown['adapted']['chosen']} {shown['adapted']['scores']}"
    tokens = [f"{token:<16} {moved:.4f}" for token, moved in zip(shown["tokens"], shown["moved"], strict=True)]
    steps = [f"{s['symbol']:<16} {' '.join(f'{x:+.4f}' for x in s['numbers'])}" for s in shown["steps"]]
    assert lines == tokens + steps


@pytest.mark.parametrize("kind", KINDS)
def test_changed_rows_are_those_of_the_report_and_are_answered_as_there(kind, playground, folders):
    """Fixed first, then broken; base before, adapted after, for every task."""
    report = Report.read(folders[kind].parent / "report.json")
    lists = playground.adapters[kind].description(kind)["changed"]["lists"]
    assert [[one["row"] for one in rows] for rows in lists] == [
        [one.row for one in rows] for rows in (report.changed.fixed, report.changed.broken)
    ]
    for one in [row for rows in lists for row in rows][:4]:
        shown = playground.answer(State(kind, *one["texts"]))
        assert (shown["base"]["named"], shown["adapted"]["named"]) == (one["before"], one["after"])


def test_full_rank_changes_no_tensor(folders):
    """Also where the rank asked for is above the layer's."""
    model = open_adapter(folders[SINGLE]).base.model
    before = [p.data_ptr() for p in model.parameters()]
    for rank in (None, 3, 99):
        with keep_directions(model, rank):
            assert [p.data_ptr() for p in model.parameters()] == before
