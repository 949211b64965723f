"""lora_scratch/runtime/device.py: what counts as running out of memory."""

import torch

from lora_scratch.runtime.device import is_out_of_memory


def error_of(action):
    try:
        action()
    except (RuntimeError, MemoryError, ValueError) as error:
        return error
    raise AssertionError


def test_running_out_of_memory_is_recognised_on_every_device():
    """The CPU's allocator asked for a petabyte, or for more bytes than it can count; CUDA's own error, Python's own."""
    assert is_out_of_memory(error_of(lambda: torch.empty(2**50)))
    assert is_out_of_memory(error_of(lambda: torch.empty(2**63 - 1, 8)))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("could not create a primitive"))


def test_other_errors_are_not_taken_for_it():
    """Halving the batch would hide a defect."""
    assert not is_out_of_memory(error_of(lambda: torch.zeros(2, 3) @ torch.zeros(2, 3)))
    assert not is_out_of_memory(ValueError("memory"))


def test_an_error_that_was_raised_from_it_is_known_for_it():
    """A loader names the model that it can't load, and the reason is the memory."""
    for reason in (MemoryError(), OSError(12, "Cannot allocate memory"), RuntimeError("could not create a primitive")):
        middle, last = ValueError("x"), KeyError("y")
        middle.__cause__, last.__cause__ = reason, middle
        assert is_out_of_memory(last)
    assert not is_out_of_memory(middle.with_traceback(None).__context__)
