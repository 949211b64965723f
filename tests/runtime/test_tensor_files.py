"""lora_scratch/runtime/tensor_files.py: a header is checked before anything is allocated for what it promises."""

import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from lora_scratch.runtime.tensor_files import ITEM_BITS, header_fault

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]


def write(path, header, data=b"", *, length=None):
    """A safetensors file with this header."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(content) if length is None else length).to_bytes(8, "little") + content + data)
    return path


def entry(shape, offsets=(0, 4), dtype="F32"):
    """The header of one tensor `a`."""
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def test_whole_files_have_no_fault(tmp_path):
    """Every dtype, a scalar, an empty tensor, and the metadata that PEFT writes."""
    tensors = {str(dtype): torch.zeros(2, 3, dtype=dtype) for dtype in DTYPES}
    tensors |= {"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 4)}
    (tmp_path / "a").write_bytes(save(tensors, metadata={"format": "pt"}))
    assert header_fault(tmp_path / "a") is None
    assert "more than this model has use for" in header_fault(tmp_path / "a", most_bytes=10)


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (entry([0, 2**63], (0, 0)), "has the shape"),
        (entry([1] * 200), "has the shape"),
        (entry([2**40, 2**40]), "does not have the bytes"),
        (entry([-1]), "has the shape"),
        (entry([True]), "has the shape"),
        (entry("1"), "has the shape"),
        (entry([1], (4, 0)), "has the offsets"),
        (entry([1], (0, 8)), "does not have the bytes"),
        (entry([1], dtype="F33"), "has the dtype"),
        ({"a": 1}, "has the dtype"),
        ([], "no JSON object"),
        (b"{", "not valid JSON"),
        (b"[" * 10**6, "not valid JSON"),
        ({}, "its tensors have 0 bytes, the file 4"),
    ],
    ids=range(14),
)
def test_a_header_that_can_not_be_is_named(tmp_path, header, fault):
    """One clause, and no memory."""
    assert fault in header_fault(write(tmp_path / "a", header, b"\0" * 4))


def test_a_file_of_holes_is_refused_for_a_model_that_has_no_use_for_it(tmp_path):
    """6 GiB that take no space on the disk would take 6 GiB of memory."""
    path = write(tmp_path / "a", entry([3 * 2**29], (0, 6 * 2**30)))
    os.truncate(path, path.stat().st_size + 6 * 2**30)
    assert header_fault(path) is None
    assert "more than this model has use for" in header_fault(path, most_bytes=2**24)


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 8, (2**40).to_bytes(8, "little") + b"{}"])
def test_a_file_that_is_too_short_for_its_header_is_named(tmp_path, content):
    """Also an empty one."""
    (tmp_path / "a").write_bytes(content)
    assert "its header has" in header_fault(tmp_path / "a")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(dtype=st.sampled_from(list(ITEM_BITS)) | json_values, shape=json_values, offsets=json_values)
def test_any_json_in_any_field_is_a_fault_or_whole(tmp_path_factory, dtype, shape, offsets):
    """Never another exception."""
    path = write(tmp_path_factory.mktemp("t") / "a", {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}})
    found = header_fault(path)
    assert found is None or isinstance(found, str)
