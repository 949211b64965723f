"""Between two steps: write a checkpoint if it is due, and stop if a signal came."""

from __future__ import annotations

import signal

import torch

from ..errors import Interrupted
from ..runtime.distributed import is_main, sum_over_processes, world_size
from .checkpoint import Checkpoints
from .interrupt import SIGNALS, StopRequest
from .recorder import Recorder


class Saver:
    """Saves the state of a run, and stops the run after saving.

    Args:
        saves: if None, nothing is saved and signals are ignored.
    """

    def __init__(self, recorder: Recorder, saves: Checkpoints | None, stop: StopRequest) -> None:
        self.recorder, self.checkpoints, self.stop = recorder, saves, stop
        self.state, self.stepper = recorder.state, recorder.state.stepper

    @property
    def saves_steps(self) -> bool:
        """Whether a checkpoint is due after the launched step."""
        interval = self.checkpoints.save_steps if self.checkpoints else 0
        return interval > 0 and self.stepper.step % interval == 0

    @property
    def saves_epochs(self) -> bool:
        """Whether a checkpoint is due after every epoch."""
        return self.checkpoints is not None and not self.checkpoints.save_steps

    def save_or_stop(self, *, due: bool) -> None:
        """Save if it is due. If a signal came, save and stop.

        Raises:
            Interrupted: after saving.
        """
        if self.checkpoints is None:
            return
        stop = self._requested_signal()
        if stop:
            self.recorder.read()
        step = self.stepper.step
        if (due or stop) and is_main():
            self.recorder.read_clocks()
            self.checkpoints.save(step, self.state.state_dict())
        if stop:
            message = f"{stop.name}, saved after step {step:,} of {self.stepper.total_steps:,}"
            raise Interrupted(message, signal_number=stop)

    def _requested_signal(self) -> signal.Signals | None:
        """Return the signal that any process got: all must stop after the same step."""
        if world_size() == 1:
            return self.stop.signal
        counts = torch.tensor([float(self.stop.signal == number) for number in SIGNALS])
        sum_over_processes([counts])
        return next((n for n, count in zip(SIGNALS, counts.tolist(), strict=True) if count), None)
