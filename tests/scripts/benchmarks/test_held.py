"""scripts/benchmarks/held.py: the memory of a training above its model, on a CPU and on a GPU."""

from types import SimpleNamespace

import pytest
import torch

from lora_scratch.commands.benchmarks import held, training_speed
from lora_scratch.commands.benchmarks.contenders import Contender
from lora_scratch.commands.benchmarks.held import HeldMemory

MODEL, BATCH, GRAPHS = 100, 40, 25


class FakeAllocator:
    """What torch.cuda counts: what tensors take, what is reserved for them, and the most of both since the last reset."""

    def __init__(self, *, at_import=500):
        self.allocated = self.reserved = self.cached = self.most_allocated = 0
        self.most_reserved = at_import  # the peak of work before the measurement

    def empty_cache(self):
        self.reserved -= self.cached
        self.cached = 0

    def reset_peak_memory_stats(self, device):
        self.most_allocated, self.most_reserved = self.allocated, self.reserved

    def memory_reserved(self, device):
        return self.reserved

    def max_memory_reserved(self, device):
        return self.most_reserved

    def max_memory_allocated(self, device):
        return self.most_allocated

    def take(self, count, *, in_graphs=False):
        """What lies in the cache is used first. A pool of graphs is reserved for good, and not counted as allocated."""
        reused = 0 if in_graphs else min(count, self.cached)
        self.cached -= reused
        self.reserved += count - reused
        self.allocated += 0 if in_graphs else count
        self.most_allocated = max(self.most_allocated, self.allocated)
        self.most_reserved = max(self.most_reserved, self.reserved)


class FakeModel(torch.nn.Module):
    """Takes MODEL bytes where it is moved to, and leaves as many in the cache."""

    def __init__(self, allocator):
        super().__init__()
        self.allocator, self.moved = allocator, False

    def to(self, device):
        if not self.moved:
            self.allocator.take(2 * MODEL)
            self.allocator.allocated, self.allocator.cached = MODEL, MODEL
        self.moved = True
        return self


@pytest.fixture
def allocator(monkeypatch):
    fake = FakeAllocator()
    for name in ("empty_cache", "reset_peak_memory_stats", "memory_reserved", "max_memory_reserved", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    return fake


def test_the_peak_on_a_gpu_is_above_the_model_and_counts_what_graphs_keep(allocator):
    """The model, the cache it left and the work before are no part of it; the pool of the graphs is."""
    memory = HeldMemory(FakeModel(allocator), torch.device("cuda", 1))
    assert memory.above_model(memory.peak()) == 0
    allocator.take(BATCH)
    allocator.take(GRAPHS, in_graphs=True)
    assert memory.above_model(memory.peak()) == memory.above_model(memory.now()) == BATCH + GRAPHS
    allocator.cached = BATCH
    allocator.empty_cache()
    assert memory.above_model(memory.now()) == GRAPHS


def test_a_training_on_a_gpu_reports_memory_above_its_model(allocator, monkeypatch):
    """The figure of the table, whatever else was reserved before."""

    def train(model, work, rows, watch, **_):
        model.to(work.device)  # as the loop and Trainer do
        allocator.take(BATCH if rows == "longest" else 0)
        allocator.take(GRAPHS if rows == "all" else 0, in_graphs=True)
        if rows == "all":
            watch.step(model, seconds=1.0, tokens=10)

    contender = Contender("a fake", lambda work: FakeModel(allocator), train)
    monkeypatch.setitem(training_speed.CONTENDERS, "fake", contender)
    monkeypatch.setattr(training_speed, "replace", lambda item, **_: item)
    work = SimpleNamespace(training=SimpleNamespace(batch_size=4), device=torch.device("cuda"), steps=1, warm_steps=0)
    work.timed_rows, work.longest_rows = "all", "longest"
    found = training_speed.measure_training("fake", work, seconds=0.0)
    assert found["peak_memory_above_model_bytes"] == BATCH + GRAPHS


def test_on_a_cpu_it_is_the_process_above_the_model_that_was_read(monkeypatch):
    """Resident memory, and the peak from that moment on."""
    monkeypatch.setattr(held, "resident_bytes", lambda device: 1000)
    monkeypatch.setattr(held, "peak_bytes", lambda device: 1300)
    memory = HeldMemory(torch.nn.Linear(2, 2), torch.device("cpu"))
    assert (memory.now(), memory.peak(), memory.above_model(memory.peak())) == (1000, 1300, 300)
