"""scripts/benchmarks/ours.py and by_hand.py: a loop that reads many steps at once, as on a GPU, is measured right."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.tiny import tiny_distilbert, tiny_rows
from torch.optim.optimizer import register_optimizer_step_post_hook

from lora_scratch.adapter import LoRAConfig
from lora_scratch.commands.benchmarks import ours, whole_job
from lora_scratch.commands.benchmarks.ours import build_ours, train_ours
from lora_scratch.commands.benchmarks.products import measure_floor
from lora_scratch.commands.benchmarks.watch import Race, Watch
from lora_scratch.commands.benchmarks.work import Work
from lora_scratch.data import Splits
from lora_scratch.model.base import Base
from lora_scratch.training import TrainingConfig, loop

READ_EVERY = 7
TRAINING = TrainingConfig(epochs=2, batch_size=4, device="cpu", precision="fp32", learning_rate=1e-2)


@pytest.fixture
def launched():
    """How many optimizer steps were launched, in a list of one."""
    count = [0]

    def another(*_):
        count[0] += 1

    handle = register_optimizer_step_post_hook(another)
    yield count
    handle.remove()


@pytest.fixture
def late(monkeypatch):
    """The loop reads many steps at once, as it does on a GPU."""
    monkeypatch.setitem(loop.READ_EVERY, "cpu", READ_EVERY)


def tiny_work(**settings):
    rows = tiny_rows(96)
    base = Base(tiny_distilbert(), SimpleNamespace(pad_token_id=0), "tiny", ())
    splits = Splits((), (), (), labels=("a", "b", "c"), source="tiny")
    sets = {"train": rows, "validation": rows.select(range(8)), "test": rows.select(range(16))}
    adapter = LoRAConfig(rank=4, alpha=8, dropout=0.0, targets=["q_lin", "v_lin"])
    return Work(base, splits, sets, adapter, replace(TRAINING, **settings), steps=3)


class Told(Watch):
    """Notes every step it is told, whether that is the latest, and how many were launched then."""

    def __init__(self, launched):
        self.launched, self.steps = launched, []

    def step(self, model, *, seconds, tokens, is_latest=True):
        self.steps.append((len(self.steps) + 1, is_latest, self.launched[0]))
        return False

    def before_steps(self, *, seconds):
        """Nothing comes before."""


@pytest.mark.usefixtures("late")
def test_a_step_is_called_the_latest_only_while_no_other_was_launched(launched):
    """In each reading that is the last of its steps, and the last of an epoch."""
    work, told = tiny_work(), Told(launched)
    train_ours(build_ours(work), work, work.sets["train"], told)
    assert len(told.steps) == 48
    assert any(number < count for number, _, count in told.steps)  # the readings are late
    assert all(is_latest == (number == count) for number, is_latest, count in told.steps)
    assert [number for number, is_latest, _ in told.steps if is_latest][-1] == 48


@pytest.mark.usefixtures("late")
def test_a_race_credits_a_score_to_the_steps_that_led_to_it(launched, monkeypatch):
    """What is measured at step s of the curve is the model after s steps, not one that has trained on."""
    work, at = tiny_work(), []

    def predict(work, split, model):
        if split == "test":
            at.append(launched[0])
        return torch.zeros(len(work.sets[split]), 3)

    monkeypatch.setattr(whole_job, "_predict", predict)
    found = whole_job.measure_race("ours", work, goal=2.0, split="test", every=5)
    assert [point["step"] for point in found["curve"]] == at
    assert len(at) > 3


def test_a_race_looks_once_for_each_multiple_and_not_before_the_latest_step():
    """Steps 5 and 10 pass inside one reading: a single look, at its last step, with the seconds of all of them."""
    race = Race(1.0, lambda model: 1.0, every=5)
    told = [race.step(None, seconds=1.0, tokens=1, is_latest=number == 12) for number in range(1, 13)]
    assert told == [False] * 11 + [True]
    assert race.curve == [{"step": 12, "seconds": 12.0, "score": 1.0}]


@pytest.mark.usefixtures("late")
def test_the_floor_counts_the_products_of_a_loop_that_would_replay_them(launched, monkeypatch):
    """The loop dispatches nothing while it replays, and reads late: the steps of the floor are launched by hand."""
    monkeypatch.setattr(ours, "train", lambda *_, **__: pytest.fail("the loop replays"))
    work = tiny_work()
    found = measure_floor("ours-fp32", work)
    assert launched == [1 + 3]  # the warm step and those that are timed
    assert found["products"] % 3 == 0 < found["products"]
    timed = ours._tokens_of_steps(work.timed_rows, TRAINING)[1:4]
    assert found["tokens"] == sum(timed)


@pytest.mark.usefixtures("late")
def test_steps_by_hand_train_what_the_loop_trains():
    """The same batches in the same order, so the same weights: what is counted is the work that is timed."""
    looped, by_hand = tiny_work(), tiny_work()
    weights = []
    for work, how in ((looped, {}), (by_hand, {"by_hand": True})):
        model = build_ours(work)
        train_ours(model, replace(work, training=replace(work.training, epochs=1)), work.sets["train"], Told([0]), **how)
        weights.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())
