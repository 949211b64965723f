"""lora_scratch/training/state.py and loop.py: a run that was stopped anywhere ends in the bits of one that was not."""

import random
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from support.tiny import tiny_distilbert, tiny_rows

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.errors import CheckpointError, TrainingError
from lora_scratch.fast import onednn
from lora_scratch.runtime.random_state import random_state
from lora_scratch.training import Checkpoints, MetricsLog, TrainingConfig, train

ROWS, VALIDATION = tiny_rows(44), tiny_rows(16, seed=1)  # 44 rows in batches of 8: the last one is smaller
QUIET = {"pad_token_id": 0, "show_progress": False}


def adapted(**settings):
    return inject(tiny_distilbert(dropout=0.1), LoRAConfig(**{"rank": 4, "alpha": 8, "dropout": 0.1, **settings}))


def config(**settings):
    usual = {"epochs": 2, "batch_size": 8, "accumulation_steps": 2, "learning_rate": 1e-2, "precision": "fp32"}
    return TrainingConfig(**{**usual, "device": "cpu", **settings})


def run(folder, settings, *, model=None, save_steps=1, keep=100):
    """Train in `folder`; the model, what it ended with, and the result without what a clock says."""
    model, saved = model or adapted(), []
    torch.manual_seed(random.randrange(1000))  # noqa: S311 - whatever stood in the generators before must not matter
    log = MetricsLog(folder / "metrics.jsonl")
    folder.mkdir(exist_ok=True)
    checkpoints = Checkpoints(folder / "state", save_steps=save_steps, keep=keep)
    result = train(model, ROWS, VALIDATION, settings, log=log, on_best=saved.append, checkpoints=checkpoints, **QUIET)
    told = [
        {name: value for name, value in event.items() if name not in ("tokens_per_second", "seconds")}
        for event in log.events
    ]
    counts = (result.best, result.best_step, result.steps, result.skipped, result.examples, result.tokens)
    return tensors(model), told, counts, saved[-1]


def tensors(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def same(one, other):
    bits = one[0].keys() == other[0].keys() and all(torch.equal(t, other[0][name]) for name, t in one[0].items())
    return bits and one[1:] == other[1:]


def stopped_after(step, whole, place):
    """What a kill some time after the checkpoint of `step` leaves: later lines in the log, no later checkpoint."""
    shutil.copytree(whole, place)
    for folder in (place / "state").iterdir():
        if int(folder.name.removeprefix("step_")) > step:
            shutil.rmtree(folder)
    return place


@pytest.mark.parametrize(
    "settings",
    [
        {"plain": True},
        {},
        {"precision": "bf16"},
        {"precision": "fp16", "plain": True},
        {"accumulation_steps": 1, "epochs": 1},
        {"head_start": "probe"},
        {"class_weights": "balanced", "evaluate_every": 2, "best_by": "loss"},
        {"accumulation_steps": 1, "evaluate_every": 1, "patience": 3, "learning_rate": 0.02},
    ],
    ids=str,
)
def test_a_run_resumed_at_any_step_ends_in_the_same_bits(tmp_path, settings):
    """N steps = k steps and a resume for N - k, for every k: weights, log, counters, best; also at the end of an epoch."""
    whole = run(tmp_path / "whole", config(**settings))
    steps = Checkpoints(tmp_path / "whole" / "state").steps()
    assert steps == list(range(1, whole[2][2] + 1))
    for step in steps:
        place = stopped_after(step, tmp_path / "whole", tmp_path / f"after {step}")
        assert same(run(place, config(**settings)), whole), step


@pytest.mark.parametrize("settings", [{"variant": "dora"}, {"init": "pissa"}, {"bias": "all"}, {"rslora": True}], ids=str)
def test_every_kind_of_adapter_resumes(tmp_path, settings):
    """Magnitudes, starts that are not zero and biases are part of the state."""
    whole = run(tmp_path / "whole", config(), model=adapted(**settings))
    place = stopped_after(4, tmp_path / "whole", tmp_path / "after")
    assert same(run(place, config(), model=adapted(**settings)), whole)


def test_checkpoints_change_nothing_in_the_run_that_writes_them(tmp_path):
    """No generator is drawn from, no tensor touched."""
    often, once = run(tmp_path / "often", config()), run(tmp_path / "once", config(), save_steps=0)
    never = adapted()
    train(never, ROWS, VALIDATION, config(), **QUIET)
    assert same(often, once)
    assert all(torch.equal(tensor, often[0][name]) for name, tensor in tensors(never).items())


def test_a_run_without_save_steps_has_a_checkpoint_after_every_epoch(tmp_path):
    """44 rows, six batches, two a step: three steps an epoch."""
    run(tmp_path / "run", config(), save_steps=0)
    assert Checkpoints(tmp_path / "run" / "state").steps() == [3, 6]


def test_only_the_last_checkpoints_are_kept(tmp_path):
    """As many as `keep` says, and nothing beside them."""
    run(tmp_path / "run", config(), keep=2)
    assert sorted(path.name for path in (tmp_path / "run" / "state").iterdir()) == ["step_000005", "step_000006"]


def test_a_run_that_was_killed_after_its_last_step_only_puts_the_best_back(tmp_path):
    """No step is done twice; the best is saved again, since the kill may have hit its replacement."""
    whole = run(tmp_path / "run", config(), save_steps=0)
    again = run(tmp_path / "run", config(), save_steps=0)
    assert same(again, whole)


def test_what_stood_in_the_generators_comes_back(tmp_path):
    """Python's, NumPy's and torch's: a library that draws from any of them goes on where it was."""
    run(tmp_path / "run", config(), save_steps=0)
    after = random_state()
    random.random(), np.random.random(3), torch.rand(3)  # noqa: S311
    run(tmp_path / "run", config(), save_steps=0)
    present = random_state()
    assert torch.equal(present.pop("torch"), after.pop("torch"))
    assert present == after


def test_a_checkpoint_of_other_trained_tensors_is_refused_with_their_names(tmp_path):
    """A resume must not train nothing, everything, or something else; the model stays as it was."""
    run(tmp_path / "run", config(), save_steps=0)
    model = adapted(targets=["q_lin"])
    before = tensors(model)
    with pytest.raises(CheckpointError, match=r"k_lin\.lora_A is not trained here.* and \d+ more; expected the tensors"):
        run(tmp_path / "run", config(), model=model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(model).items())


def test_a_checkpoint_of_another_rank_is_refused_with_both_shapes(tmp_path):
    """Same names, other shapes."""
    run(tmp_path / "run", config(), save_steps=0)
    with pytest.raises(CheckpointError, match=r"lora_A has shape \(4, 32\), here \(2, 32\)"):
        run(tmp_path / "run", config(), model=adapted(rank=2))


def test_a_resume_with_nothing_to_train_is_refused(tmp_path):
    """An adapter that was loaded frozen would run to the end and learn nothing."""
    run(tmp_path / "run", config(), save_steps=0)
    model = adapted().requires_grad_(False)
    with pytest.raises(TrainingError, match="no parameter requires a gradient"):
        run(tmp_path / "run", config(), model=model)


@pytest.mark.parametrize(("step", "caught"), [(2, True), (3, False)])
def test_the_movement_guard_looks_once_also_when_the_run_was_stopped_before_its_third_step(tmp_path, step, caught):
    """Frozen weights that move are found at step 3, whether or not a resume comes in between."""
    run(tmp_path / "whole", config())
    place, model = stopped_after(step, tmp_path / "whole", tmp_path / "after"), adapted()
    position = model.distilbert.embeddings.position_embeddings.weight.data
    model.distilbert.embeddings.word_embeddings.register_forward_hook(lambda *_: [position.add_(1e-3)][1:] or None)
    expected = pytest.raises(TrainingError, match="frozen weights have changed") if caught else nullcontext()
    with expected:
        run(place, config(), model=model)


def test_products_go_on_by_the_library_that_the_run_began_with(tmp_path, monkeypatch):
    """Two measurements near the limit may disagree, and float32's last bits with them."""
    monkeypatch.setattr(onednn, "_choice", [True])
    run(tmp_path, config(epochs=1))
    monkeypatch.setattr(onednn, "_choice", [False])
    run(tmp_path, config(epochs=1))
    assert onednn.choice() is True
