"""Training in several processes (training/loop.py, step.py): the same global batch gives the same result as one."""

import numpy as np
import pytest
import torch
from support import rank_work
from support.ranks import in_processes

from lora_scratch.errors import ConfigError, WorldError

DROPPED = {"dropout": 0.2}
GRADIENT_BYTES = 4 * (1 + sum(p.numel() for p in rank_work.adapted().parameters() if p.requires_grad))


def close(ours, theirs, rtol):
    np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=rtol)
    without = {"best": None, "margins": None}
    assert {**vars(ours["result"]), **without} == {**vars(theirs["result"]), **without}
    counts = [run["result"].margins["counts"].tolist() for run in (ours, theirs)]
    assert counts[0] == counts[1]  # every row once an epoch, whatever process had it
    assert (ours["result"].best.accuracy, ours["result"].best.n) == (theirs["result"].best.accuracy, theirs["result"].best.n)


def same_bits(ours, theirs):
    return all(np.array_equal(tensor, theirs["tensors"][name]) for name, tensor in ours["tensors"].items())


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        (2, {}),
        (2, {"accumulation_steps": 2, "batch_size": 7}),
        (2, {"class_weights": "balanced", "label_smoothing": 0.1, "evaluate_every": 3, "batch_size": 7}),
        (3, {"batch_size": 4, "epochs": 1}),  # 45 = 11 * 4 + 1: two processes have no row of the last batch
    ],
)
def test_several_processes_with_the_same_global_batch_train_as_one(size, settings):
    """Every loss to 1e-5, steps, examples, tokens and accuracy exactly; and all processes end with the same bits."""
    alone = rank_work.trained(**settings)
    main, *others = in_processes(rank_work.trained, size=size, **settings)
    close(main, alone, rtol=1e-5)
    for other in others:
        assert same_bits(other, main)
        assert other["losses"] == []  # process 0 writes


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two GPUs")
@pytest.mark.parametrize("sharded", [False, True])
def test_two_gpus_train_as_one(sharded):
    """Over NCCL. cuBLAS may add in another order for other shapes, hence 1e-5."""
    alone = rank_work.trained(device="cuda")
    main, other = in_processes(rank_work.trained, device="cuda", sharded=sharded)
    close(main, alone, rtol=1e-5)
    assert same_bits(other, main)


def test_only_gradients_of_adapter_and_head_travel_once_a_step():
    """Three micro-batches are one message of four bytes for each trained number and for the loss. Nothing is sent, and no
    parameter looked for, between backward passes.
    """
    messages = in_processes(rank_work.messages_of_a_step, accumulation_steps=3)
    assert messages == [[("allreduce_", GRADIENT_BYTES)]] * 2


def test_of_a_sharded_base_its_frozen_weights_travel_and_no_gradient_of_them():
    """Every message but the one of the gradients of adapter and head gathers weights; none reduces."""
    for messages in in_processes(rank_work.messages_of_a_step, accumulation_steps=3, sharded=True):
        assert [message for message in messages if "gather" not in message[0]] == [("allreduce_", GRADIENT_BYTES)]
        assert len(messages) > 3


def test_dropout_differs_between_processes_and_is_the_same_in_every_run():
    """Two processes do not draw the same masks for their different rows; a run repeats itself in all its bits."""
    first, second = (in_processes(rank_work.trained, adapter=DROPPED)[0] for _ in range(2))
    assert same_bits(first, second)
    assert len(set(in_processes(rank_work.random_number_after_a_step))) == 2


def test_a_killed_run_of_two_processes_goes_on_to_the_bits_of_an_undisturbed_one(tmp_path):
    """With dropout and accumulation. The process that is not killed ends with a clear error."""
    options = {"adapter": DROPPED, "accumulation_steps": 2, "batch_size": 6, "epochs": 3}
    undisturbed, _ = in_processes(rank_work.trained, folder=tmp_path / "undisturbed", **options)
    waiting, killed = in_processes(rank_work.trained, folder=tmp_path / "run", killed=(1, 7), **options)
    assert isinstance(waiting, WorldError)
    assert killed == -9
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"step_000004", "step_000006"}
    again, _ = in_processes(rank_work.trained, folder=tmp_path / "run", **options)
    assert same_bits(again, undisturbed)
    assert again["result"] == undisturbed["result"]


def test_processes_that_start_from_different_models_are_refused():
    """Their gradients would belong to different functions."""
    for error in in_processes(rank_work.trained, wrong_seed_in=1):
        assert isinstance(error, ConfigError)
        assert "the model: not the same in process 1 as in process 0" in str(error)


def test_processes_with_other_settings_are_refused_with_both_values():
    """Alpha is in no tensor: their gradients would be those of different functions."""
    for error in in_processes(rank_work.trained, alphas=[8, 16]):
        assert isinstance(error, ConfigError)
        assert "--alpha is 16 in process 1, 8 in process 0; start all processes with the same flags" in str(error)


def test_a_batch_with_fewer_rows_than_processes_is_refused():
    """Processes without work would be a mistake."""
    for error in in_processes(rank_work.trained, batch_size=1):
        assert isinstance(error, ConfigError)
        assert "--batch_size: a batch of 1 rows for 2 processes; expected at least 2" in str(error)
