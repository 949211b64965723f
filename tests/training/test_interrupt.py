"""lora_scratch/training/interrupt.py: a signal stops a run between two steps, with everything saved."""

import os
import signal
import threading

import pytest
import torch
from support.tiny import tiny_distilbert, tiny_rows

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.errors import Interrupted
from lora_scratch.training import Checkpoints, TrainingConfig, train
from lora_scratch.training.interrupt import stop_request

SETTINGS = TrainingConfig(epochs=2, batch_size=8, learning_rate=1e-2, precision="fp32", device="cpu")


@pytest.fixture(autouse=True)
def _listening():
    """A test run in the background of a shell was started to ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run(folder, *, signals=(), at_step=3):
    """Train; in the forward pass of one step, send these signals to ourselves. The trained tensors."""
    model = inject(tiny_distilbert(dropout=0.1), LoRAConfig(rank=4, alpha=8, dropout=0.1))
    passes = []

    def send(*_):
        passes.append(model.training)
        if sum(passes) == at_step and passes[-1]:
            for each in signals:
                os.kill(os.getpid(), each)

    model.classifier.register_forward_hook(send)
    rows, checkpoints = tiny_rows(40), Checkpoints(folder, save_steps=0)
    train(model, rows, tiny_rows(16, seed=1), SETTINGS, checkpoints=checkpoints, pad_token_id=0, show_progress=False)
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at_step", [3, 5])
def test_a_signal_stops_after_the_step_and_a_resume_ends_in_the_same_bits(tmp_path, capsys, number, at_step):
    """In the middle of an epoch (5 steps) or in its last step: the step is finished, saved, and not done again."""
    with pytest.raises(Interrupted, match=f"{number.name}, saved after step {at_step} of 10") as stop:
        run(tmp_path / "state", signals=[number], at_step=at_step)
    assert stop.value.signal_number == number
    assert f"{number.name}: saving after this step" in capsys.readouterr().err
    assert Checkpoints(tmp_path / "state").steps() == [at_step]
    resumed, whole = run(tmp_path / "state"), run(tmp_path / "whole")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_second_ctrl_c_stops_at_once_and_leaves_the_last_checkpoint_whole(tmp_path):
    """In the middle of step 7: there is the checkpoint of epoch 1, after step 5, and no other."""
    with pytest.raises(KeyboardInterrupt) as stop:
        run(tmp_path / "state", signals=[signal.SIGINT, signal.SIGINT], at_step=7)
    assert not isinstance(stop.value, Interrupted)
    assert Checkpoints(tmp_path / "state").steps() == [5]
    resumed, whole = run(tmp_path / "state"), run(tmp_path / "whole")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_second_sigterm_is_as_patient_as_the_first(tmp_path):
    """Supervisors send it again and again."""
    with pytest.raises(Interrupted, match="SIGTERM, saved after step 3"):
        run(tmp_path / "state", signals=[signal.SIGTERM, signal.SIGTERM])


def test_signals_do_afterwards_what_they_did_before():
    """Whatever happens inside."""
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with stop_request():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_is_ignored_stays_ignored():
    """`nohup`, and shells that start something in the background, ask for that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stop_request() as request:
        os.kill(os.getpid(), signal.SIGINT)
    assert request.signal is None


def test_a_thread_trains_without_listening():
    """Python hands signals to the main thread alone."""
    found = []

    def listen():
        with stop_request() as request:
            found.append(request.signal)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [None]
