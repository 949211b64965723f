"""lora_scratch/training/loop.py: the loop learns, keeps the best, tells what it did, and repeats itself exactly."""

import json
from contextlib import nullcontext

import pytest
import torch
from support.tiny import tiny_distilbert, tiny_rows

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject, merge_all
from lora_scratch.data import Encoded
from lora_scratch.errors import TrainingError
from lora_scratch.evaluation import Predictor
from lora_scratch.fast import path
from lora_scratch.runtime.device import use_device
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.tasks import measure
from lora_scratch.training import MetricsLog, TrainingConfig, loop, train
from lora_scratch.training.loop import READ_EVERY

QUIET = {"pad_token_id": 0, "show_progress": False}


def adapted(dropout=0.1):
    return inject(tiny_distilbert(dropout=dropout), LoRAConfig(rank=4, alpha=8, dropout=dropout))


def config(**settings):
    usual = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32", "device": "cpu"}
    return TrainingConfig(**{**usual, **settings})


def tensors(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_training_lowers_the_loss_on_its_own_rows():
    """The loop learns what can be learnt: rows whose label stands in the text."""
    model, rows, log = adapted(dropout=0.0), tiny_rows(96), MetricsLog()
    train(model, rows, rows, config(epochs=12), log=log, **QUIET)
    losses = [event["loss"] for event in log.events if event["event"] == "validation"]
    assert min(losses) < 0.7 * losses[0]


def test_two_runs_with_one_seed_end_in_the_same_bits():
    """Order of rows, dropout and initialization all come from the seed."""
    first, second, other = adapted(), adapted(), adapted()
    for model, seed in ((first, 3), (second, 3), (other, 4)):
        train(model, tiny_rows(), tiny_rows(seed=1), config(seed=seed), **QUIET)
    assert all(torch.equal(tensor, tensors(second)[name]) for name, tensor in tensors(first).items())
    assert not all(torch.equal(tensor, tensors(other)[name]) for name, tensor in tensors(first).items())


def test_the_model_ends_with_the_tensors_that_were_best_on_validation():
    """Even when later epochs are worse; `on_best` saw exactly these tensors."""
    model, validation, saved = adapted(), tiny_rows(seed=1), []
    settings = config(epochs=6, learning_rate=5e-2)
    result = train(model, tiny_rows(), validation, settings, on_best=lambda _: saved.append(tensors(model)), **QUIET)
    assert all(torch.equal(tensor, saved[-1][name]) for name, tensor in tensors(model).items())
    precision = resolve_precision("fp32", torch.device("cpu"))
    assert measure(Predictor(model, precision, 0).logits(validation), validation.labels) == result.best


def test_the_result_counts_rows_tokens_and_steps():
    """48 rows in batches of 8, two at a time, for two epochs: 6 steps; every real token counted once an epoch."""
    rows = tiny_rows(48)
    result = train(adapted(), rows, rows, config(accumulation_steps=2), **QUIET)
    assert (result.steps, result.examples, result.tokens) == (6, 96, 2 * int(rows.lengths.sum()))
    assert result.seconds > 0
    assert result.peak_memory_bytes > 0


def test_metrics_jsonl_has_a_line_for_every_step_and_every_validation(tmp_path):
    """One JSON object a line, with the fields that a plot needs."""
    path = tmp_path / "metrics.jsonl"
    train(adapted(), tiny_rows(16), tiny_rows(16), config(), log=MetricsLog(path), **QUIET)
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [event["event"] for event in events] == ["step", "step", "validation"] * 2
    assert {"step", "epoch", "loss", "learning_rate", "gradient_norm", "tokens_per_second", "skipped"} <= events[0].keys()
    assert {"step", "epoch", "loss", "accuracy", "macro_f1", "n"} <= events[2].keys()


def test_training_refuses_a_model_with_nothing_to_train():
    """A frozen model would run for hours and learn nothing."""
    model = tiny_distilbert().requires_grad_(False)
    with pytest.raises(TrainingError, match="no parameter requires a gradient"):
        train(model, tiny_rows(), tiny_rows(), config(), **QUIET)


def test_training_refuses_a_merged_adapter():
    """A merged layer does not use A and B, so they would never move."""
    model = adapted()
    merge_all(model)
    with pytest.raises(TrainingError, match="is merged and would not learn"):
        train(model, tiny_rows(), tiny_rows(), config(), **QUIET)


def test_training_names_adapter_layers_that_get_no_gradient():
    """The head alone could lower the loss: the run must not look healthy."""
    model = adapted()
    dead, layer = next(iter(adapter_layers(model).items()))
    layer.enabled = False
    with pytest.raises(TrainingError, match=f"have not moved, first {dead}"):
        train(model, tiny_rows(), tiny_rows(), config(weight_decay=0.0), **QUIET)


def test_full_fine_tuning_goes_through_the_same_loop():
    """The loop trains what requires a gradient; it does not ask for an adapter."""
    model = tiny_distilbert()
    before = model.distilbert.embeddings.word_embeddings.weight.detach().clone()
    train(model, tiny_rows(), tiny_rows(), config(), **QUIET)
    assert not torch.equal(before, model.distilbert.embeddings.word_embeddings.weight)


def test_reports_read_late_change_neither_weights_nor_log(monkeypatch):
    """On a GPU they are read every twenty steps: the same lines, but for the clock, the same counts."""
    found = []
    for every in (1, 5):
        monkeypatch.setitem(READ_EVERY, "cpu", every)
        log, model = MetricsLog(), adapted()
        result = train(model, tiny_rows(), tiny_rows(), config(), log=log, **QUIET)
        lines = [{key: value for key, value in event.items() if key != "tokens_per_second"} for event in log.events]
        found.append((lines, (result.examples, result.tokens, result.steps), tensors(model)))
    (lines, counts, weights), (late_lines, late_counts, late_weights) = found
    assert late_lines == lines
    assert late_counts == counts
    assert all(torch.equal(late_weights[name], tensor) for name, tensor in weights.items())


class Stopped(Exception):
    """Training came this far."""


def stopped(*arguments, **_):
    raise Stopped(*arguments)


SECOND = torch.device("cuda:1")


def test_training_makes_the_gpu_of_the_model_the_current_one(monkeypatch):
    """Before anything is computed: a kernel or a stream that names no device is on the current one."""
    chosen, model = [], adapted()
    monkeypatch.setattr(loop, "resolve_device", lambda _: SECOND)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(model, "to", stopped)
    with pytest.raises(Stopped):
        train(model, tiny_rows(), tiny_rows(), config(), **QUIET)
    assert chosen == [SECOND]


def test_training_on_a_cpu_or_on_the_current_gpu_chooses_no_device(monkeypatch):
    """torch.cuda.set_device takes no device without a number."""
    monkeypatch.setattr(torch.cuda, "set_device", stopped)
    for name in ("cpu", "cuda"):
        use_device(torch.device(name))


def test_graphs_are_recorded_on_the_gpu_of_the_model(monkeypatch):
    """Not on the current one, which is another where a caller chose it."""
    monkeypatch.setattr(loop, "resolve_device", lambda _: SECOND)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(Encoded, "to", lambda self, _: self)
    monkeypatch.setattr(path, "CudaRecorder", stopped)
    model = adapted()
    monkeypatch.setattr(model, "to", lambda _: model)
    with pytest.raises(Stopped) as reached:
        train(model, tiny_rows(), tiny_rows(), config(), **QUIET)
    assert reached.value.args == (SECOND,)


@pytest.mark.parametrize("fails", [False, True])
def test_recorded_graphs_are_dropped_when_training_ends(monkeypatch, fails):
    """Also by an error: what follows can use their memory, though the optimizer's hooks still refer to the stepper."""
    dropped = []
    monkeypatch.setattr(path.FastPath, "close", lambda self: dropped.append(self))
    if fails:
        monkeypatch.setattr(loop.Stepper, "launch", stopped)
    with pytest.raises(Stopped) if fails else nullcontext():
        train(adapted(), tiny_rows(), tiny_rows(), config(epochs=1), **QUIET)
    assert dropped


class Eager:
    """In place of a recorder: nothing is recorded."""

    def run(self, computation):
        return computation()

    rehearse = run

    def record(self, computation):
        raise RuntimeError("not here")


@pytest.mark.filterwarnings("ignore:trains without CUDA graphs")
def test_widths_of_replayed_batches_are_rounded_up_to_eight_tokens(monkeypatch):
    """Few shapes, and little filling: a multiple of 16 would double what the shortest rows cost."""
    widths, real = set(), loop.shard_batch

    def shard_batch(*args, **options):
        batch = real(*args, **options)
        widths.add(batch.input_ids.shape[1])
        return batch

    monkeypatch.setattr(loop, "shard_batch", shard_batch)
    usual = path.FastPath
    monkeypatch.setattr(path, "FastPath", lambda recorder: usual(Eager()))
    rows = tiny_rows(48, longest=22)
    train(adapted(), rows, rows, config(epochs=1, batch_size=4), **QUIET)
    assert widths == {8, 16, 22}  # 22 is the most that a row may have


def test_a_training_without_a_finite_step_is_an_error():
    """Fewer steps than --max_skipped: it ended well, with an adapter that was never trained."""
    model = inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=1e30, dropout=0.0))
    with pytest.raises(
        TrainingError, match=r"no loss or gradient was finite in 12 steps, .*; lower --learning_rate or --alpha"
    ):
        train(model, tiny_rows(48), tiny_rows(8), config(), **QUIET)
