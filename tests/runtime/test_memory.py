"""lora_scratch/runtime/memory.py: what the process or the GPU holds, and its peak since a chosen moment."""

import ctypes

import pytest
import torch

from lora_scratch.runtime import memory

MIB = 2**20
# Linux counts pages on each core and adds them up now and then: with many cores, /proc is a few MiB off
SIZE, ABOUT = 256 * MIB, 16 * MIB
linux = pytest.mark.skipif(not memory.PROCESS.exists(), reason="needs /proc")


@linux
def test_a_large_tensor_shows_in_what_is_held_and_in_the_peak():
    """256 MiB of it, give or take what else the allocator does; when it is gone the peak remains."""
    memory.restart_peak()
    before = memory.resident_bytes()
    tensor = torch.ones(SIZE // 4)
    assert memory.resident_bytes() - before == pytest.approx(SIZE, abs=ABOUT)
    del tensor
    assert memory.peak_bytes() - before == pytest.approx(SIZE, abs=ABOUT)


@linux
def test_the_peak_can_be_counted_anew():
    """Afterwards it is what is held now."""
    torch.ones(SIZE // 4)
    memory.restart_peak()
    assert memory.peak_bytes() == pytest.approx(memory.resident_bytes(), abs=ABOUT)


@linux
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_freed_pages_between_those_in_use_go_back():
    """Every second of 1,000 blocks of 64 KiB is freed: the holes stay with the process until they are given back."""
    blocks = [b"x" * 2**16 + bytes(number % 2) for number in range(1000)]
    del blocks[::2]
    before = memory.resident_bytes()
    memory.trim_heap()
    assert before - memory.resident_bytes() > 20 * MIB
    assert len(blocks) == 500


def test_a_system_that_takes_nothing_back_is_none_the_worse(monkeypatch):
    """Another C library, or none that can be asked."""
    for library in (object(), None):
        monkeypatch.setattr(memory.ctypes, "CDLL", lambda _, library=library: library)
        memory.trim_heap()


def test_without_proc_the_peak_of_the_process_is_what_is_known(tmp_path, monkeypatch):
    """Another POSIX system: no error, and at least what an interpreter with torch holds."""
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "absent")
    memory.restart_peak()
    assert memory.resident_bytes() == memory.peak_bytes() > 50 * MIB


def test_peak_memory_counts_bytes():
    """The peak is above what torch alone takes (50 MiB) and below any test machine's memory (1 TiB)."""
    assert 50 * MIB < memory.peak_bytes() < 2**40


def test_memory_on_a_gpu_is_what_its_allocator_has_reserved(monkeypatch):
    """Recorded graphs keep reserved memory that does not count as allocated; the process's own is not read."""
    gpu, restarted = torch.device("cuda", 1), []
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: {gpu: 100}[device])
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: {gpu: 300}[device])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", restarted.append)
    assert (memory.resident_bytes(gpu), memory.peak_bytes(gpu)) == (100, 300)
    memory.restart_peak(gpu)
    assert restarted == [gpu]
