"""Between two steps: whether to write a checkpoint, and whether a signal asks to stop."""

from __future__ import annotations

import signal

import torch

from ..errors import Interrupted
from ..runtime.distributed import is_main, sum_over_processes, world_size
from .checkpoint import Checkpoints
from .interrupt import SIGNALS, StopRequest
from .recorder import Recorder


class Saver:
    """Saves the state of a run on its way, and stops the run after saving.

    Args:
        checkpoints: where the state is saved; without it nothing is saved and no signal is heeded.
    """

    def __init__(self, recorder: Recorder, checkpoints: Checkpoints | None, stop: StopRequest) -> None:
        self.recorder, self.state, self.checkpoints, self.stop = recorder, recorder.state, checkpoints, stop

    @property
    def saves_steps(self) -> bool:
        """Whether the step that was just launched is to be saved."""
        every = self.checkpoints.save_steps if self.checkpoints else 0
        return every > 0 and self.state.stepper.step % every == 0

    @property
    def saves_epochs(self) -> bool:
        """Whether every epoch is saved instead."""
        return self.checkpoints is not None and not self.checkpoints.save_steps

    def save_or_stop(self, *, due: bool) -> None:
        """Save if it is due. If a signal came, save and stop.

        Raises:
            Interrupted: after saving.
        """
        if self.checkpoints is None:
            return
        stop = self._asked_to_stop()
        if stop:
            self.recorder.read()
        stepper = self.state.stepper
        if (due or stop) and is_main():
            self.recorder.read_clocks()
            self.checkpoints.save(stepper.step, self.state.state_dict())
        if stop:
            message = f"{stop.name}, saved after step {stepper.step:,} of {stepper.total_steps:,}"
            raise Interrupted(message, signal_number=stop)

    def _asked_to_stop(self) -> signal.Signals | None:
        """The signal that came, to whichever process: all must stop after the same step."""
        if world_size() == 1:
            return self.stop.signal
        here = self.stop.signal or 0
        counts = torch.tensor([float(here == number) for number in SIGNALS])
        sum_over_processes([counts])
        return next((number for number, count in zip(SIGNALS, counts.tolist(), strict=True) if count), None)
