"""lora_scratch/training/probe_init.py: the head starts as a probe on its own inputs, and nothing else moves."""

from contextlib import suppress

import pytest
import torch
from support import rank_work
from support.families import tiny
from support.ranks import in_processes
from support.tiny import tiny_rows

from lora_scratch.adapter import LoRAConfig, disabled, inject
from lora_scratch.data import collate
from lora_scratch.errors import ConfigError, DataError, TrainingError
from lora_scratch.evaluation import Predictor
from lora_scratch.model.base import output_layer
from lora_scratch.runtime.precision import Precision
from lora_scratch.tasks import measure, task_of
from lora_scratch.tasks.linear import fit_softmax
from lora_scratch.training import MetricsLog, TrainingConfig, probe_init, train
from lora_scratch.training import config as training_config

FP32 = Precision(torch.float32, torch.device("cpu"))
PREDICTOR = {"precision": FP32, "pad_token_id": 0}
OUTPUTS = {
    "distilbert": "classifier",
    "bert": "classifier",
    "roberta": "classifier.out_proj",
    "electra": "classifier.out_proj",
    "gpt2": "score",
}


def adapted(family="distilbert"):
    return inject(tiny(family), LoRAConfig(rank=4, alpha=12, dropout=0.1)).train()


def config(**settings):
    usual = {"epochs": 1, "batch_size": 8, "precision": "fp32", "device": "cpu", "head_start": "probe"}
    return TrainingConfig(**{**usual, **settings})


@pytest.mark.parametrize("family", OUTPUTS)
def test_output_layer_is_the_last_of_the_head(family):
    """The one that gives a number for each label."""
    model = tiny(family)
    assert output_layer(model) == OUTPUTS[family]
    assert model.get_submodule(output_layer(model)).out_features == model.config.num_labels


@pytest.mark.parametrize("family", ["distilbert", "bert", "roberta", "electra"])
def test_the_output_layer_becomes_the_regression_on_its_own_inputs(family):
    """Computed row by row, without padding, and fitted apart: W and b to 5e-3 of their largest entry.

    The solver stops at a gradient of 1e-4, and the rounding of its inputs decides where: 1.5e-3 measured at most, for the
    first weights that transformers 5.0 draws for ELECTRA.
    """
    model, rows = adapted(family), tiny_rows(60)
    layer, seen = model.get_submodule(OUTPUTS[family]), []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.eval()
    with torch.no_grad():
        for row in range(len(rows)):
            batch = collate(rows, [row], pad_token_id=0)
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    hook.remove()
    order = torch.randperm(
        60, generator=probe_init.named_generator(0, "head start")
    )  # only the held-out fifth depends on it
    _, expected = fit_softmax([torch.cat(seen)[order]], rows.labels[order], classes=3)
    assert probe_init.fit_head(Predictor(model, **PREDICTOR), rows, task_of(model), seed=0) == 60
    for found, wanted in ((layer.weight, expected.weight), (layer.bias, expected.bias)):
        torch.testing.assert_close(found.detach(), wanted, rtol=0, atol=5e-3 * float(expected.weight.abs().max()))


def test_nothing_but_the_output_layer_moves():
    """Every other bit, the mode, and torch's random numbers are as before; and the base without its adapter is the base."""
    model, rows = adapted(), tiny_rows(40)
    batch = collate(rows, [0, 1, 2], pad_token_id=0)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    before, state = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()
    with torch.no_grad(), disabled(model.eval()):
        base = model(**inputs).logits
    model.train()
    probe_init.fit_head(Predictor(model, **PREDICTOR), rows, task_of(model), seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"classifier.weight", "classifier.bias"}
    with torch.no_grad(), disabled(model.eval()):
        assert torch.equal(model(**inputs).logits, base)


def test_the_model_starts_better_than_a_random_head():
    """At the first step the loss on the rows of the fit is below that of the class shares, which a random head is above."""
    model, rows = adapted(), tiny_rows(200)
    shares = rows.labels.bincount() / len(rows)
    entropy = -float((shares * shares.log()).sum())
    assert measure(Predictor(model, **PREDICTOR).logits(rows), rows.labels).loss > entropy
    probe_init.fit_head(Predictor(model, **PREDICTOR), rows, task_of(model), seed=0)
    assert measure(Predictor(model, **PREDICTOR).logits(rows), rows.labels).loss < entropy


def test_at_most_so_many_rows_are_read(monkeypatch):
    """Of a large set a random part, chosen by the seed; other rows, other head."""
    monkeypatch.setattr(probe_init, "ROWS", 30)
    heads = []
    for seed in (0, 0, 1):
        model = adapted()
        assert probe_init.fit_head(Predictor(model, **PREDICTOR), tiny_rows(90), task_of(model), seed=seed) == 30
        heads.append(model.classifier.weight.detach().clone())
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_training_starts_there_and_says_so():
    """The first line of the log; and the first loss is lower than without."""
    losses = {}
    for start in training_config.HEAD_STARTS:
        log = MetricsLog()
        train(
            adapted(), tiny_rows(200), tiny_rows(8), config(head_start=start), pad_token_id=0, log=log, show_progress=False
        )
        losses[start] = next(event["loss"] for event in log.events if event["event"] == "step")
        if start == training_config.PROBE:
            assert {**log.events[0], "seconds": 0.0} == {
                "event": "head_start",
                "step": 0,
                "epoch": 0,
                "rows": 200,
                "seconds": 0.0,
            }
    assert losses["probe"] < losses["loaded"]


def test_a_frozen_head_and_one_without_a_linear_output_are_refused():
    """There would be nothing to start."""
    model = adapted()
    model.classifier.requires_grad_(requires_grad=False)
    with pytest.raises(ConfigError, match="--head_start probe: classifier is frozen; train the head too, or use loaded"):
        probe_init.fit_head(Predictor(model, **PREDICTOR), tiny_rows(20), task_of(model), seed=0)
    model = adapted()
    model.classifier = torch.nn.Identity()
    with pytest.raises(ConfigError, match="the model's head has no linear output layer"):
        probe_init.fit_head(Predictor(model, **PREDICTOR), tiny_rows(20), task_of(model), seed=0)
    with pytest.raises(ConfigError, match="--head_start: found 'zero'; expected loaded or probe"):
        config(head_start="zero")


def test_several_processes_start_alike_and_as_one():
    """Each computes a share of the features, the main one fits, all get its numbers."""
    alone = rank_work.trained(head_start="probe")
    main, other = in_processes(rank_work.trained, head_start="probe")
    assert all((tensor == other["tensors"][name]).all() for name, tensor in main["tensors"].items())
    assert main["losses"] == pytest.approx(alone["losses"], rel=1e-4)


def broken(damage):
    """A model whose head can't be fitted."""
    model = adapted()
    if damage == "frozen":
        model.classifier.requires_grad_(requires_grad=False)
    else:
        model.pre_classifier.bias.data[0] = torch.inf
    return model


def head_after(damage, start):
    model = broken(damage)
    with suppress(TrainingError):  # infinite features train nothing
        train(
            model, tiny_rows(40), tiny_rows(8), config(head_start=start, max_skipped=2), pad_token_id=0, show_progress=False
        )
    return model.classifier.weight.detach()


@pytest.mark.parametrize("damage", ["frozen", "infinite"])
def test_a_start_that_nobody_asked_for_gives_way_with_a_word(damage):
    """`auto` goes on from the loaded head, in the bits of that start; `probe` ends the run."""
    with pytest.warns(UserWarning, match="the head starts as loaded, without a fit: --head_start probe: "):
        head = head_after(damage, "auto")
    assert torch.equal(head, head_after(damage, "loaded"))
    with pytest.raises((ConfigError, DataError), match="--head_start probe: "):
        head_after(damage, "probe")
