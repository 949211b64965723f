"""Fakes of CUDA graphs, and a training on a CPU that goes the way of a GPU: rows by number, recorded steps."""

from contextlib import contextmanager

import torch

from lora_scratch.fast import path
from lora_scratch.fast.segments import exact_attention


class Recording:
    """A fake of a CUDA graph: a replay computes from the same buffers into the same tensor."""

    def __init__(self, computation, result):
        self.computation, self.result, self.replays, self.resets = computation, result, 0, 0

    def replay(self):
        self.replays += 1
        self.result.copy_(self.computation())

    def reset(self):
        self.resets += 1


class FakeRecorder:
    """Does on a CPU what `CudaRecorder` does on a GPU. All recordings share one memory, so one replay overwrites another."""

    def __init__(self, *, rehearsal_fails=None, recording_fails=None):
        self.rehearsal_fails, self.recording_fails = rehearsal_fails, recording_fails
        self.runs, self.rehearsals, self.recordings, self.memory = 0, 0, [], torch.zeros(2)

    def run(self, computation):
        self.runs += 1
        return computation()

    def rehearse(self, computation):
        """It fails when all is computed: gradients are added, random numbers drawn. The latter it puts back itself."""
        self.rehearsals += 1
        state = torch.get_rng_state()
        result = computation()
        self.pool = self.memory[: result.numel()].view(result.shape)
        if self.rehearsal_fails is not None:
            torch.set_rng_state(state)
            raise self.rehearsal_fails
        return result

    def record(self, computation):
        if self.recording_fails is not None:
            raise self.recording_fails
        self.recordings.append(self.recording(computation))
        return self.recordings[-1], self.pool

    def recording(self, computation):
        return Recording(computation, self.pool)


@contextmanager
def as_on_a_gpu(monkeypatch, *, kernel=exact_attention):
    """Inside, every training takes the path of a GPU. Yields the recorders of the trainings."""
    recorders, usual = [], path.FastPath

    def fast_path(_recorder):
        recorders.append(FakeRecorder())
        return usual(recorders[-1], kernel)

    with monkeypatch.context() as patch:
        patch.setattr(path, "FastPath", fast_path)
        yield recorders
