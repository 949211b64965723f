"""lora_scratch/serialization/fingerprint.py: whose weights an adapter belongs to."""

import hashlib
import json

import pytest
import torch
from support.tiny import tiny_distilbert
from torch import nn

from lora_scratch.adapter import LoRAConfig, inject, merge_all
from lora_scratch.serialization import fingerprint
from lora_scratch.serialization.fingerprint import REST, differing, file_sha256
from lora_scratch.testing import move_adapter

V1 = "distilbert.transformer.layer.1.attention.v_lin.weight"


def adapted(dtype=torch.float32, seed=0):
    """A model in a dtype, with an adapter."""
    return inject(tiny_distilbert(seed=seed).to(dtype), LoRAConfig(rank=4))


def test_fingerprint_has_one_entry_for_each_adapted_weight_and_one_for_the_rest():
    """And goes through JSON unchanged."""
    prints = fingerprint(adapted())
    parts = [f"distilbert.transformer.layer.{i}.attention.{part}_lin.weight" for i in (0, 1) for part in "qkv"]
    assert list(prints) == [*parts, REST]
    assert all(set(digests) == {"float32", "bfloat16", "float16"} for digests in prints.values())
    assert json.loads(json.dumps(prints)) == prints


def test_digest_is_sha256_of_the_numbers_in_each_dtype():
    """So anyone can compute it."""
    model = adapted()
    weight = model.get_submodule(V1.removesuffix(".weight")).weight.detach()
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        expected = hashlib.sha256(weight.to(dtype).view(torch.uint8).numpy().tobytes()).hexdigest()
        assert fingerprint(model)[V1][name] == expected
    assert file_sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_training_merging_and_moving_the_adapter_leave_the_fingerprint():
    """It is the base's alone: adapter, head and merged weights are no part of it."""
    model = adapted()
    before = fingerprint(model)
    move_adapter(model)
    with torch.no_grad():
        model.classifier.weight.add_(1)
    merge_all(model)
    assert fingerprint(model) == before
    assert differing(model, before) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m.get_submodule(V1.removesuffix(".weight")).weight[3, 4].add_(1e-5), [V1]),
        (lambda m: m.distilbert.embeddings.LayerNorm.bias[0].add_(1e-5), [REST]),
        (lambda m: m.get_submodule(V1.removesuffix(".weight")).bias[0].add_(1e-5), [REST]),
    ],
    ids=["adapted weight", "frozen bias", "bias of an adapted layer"],
)
def test_one_number_shows_where_it_is(change, expected):
    """PAINS 7: the name of what differs."""
    model = adapted()
    before = fingerprint(model)
    with torch.no_grad():
        change(model)
    assert differing(model, before) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_base_is_recognised_in_half_precision(dtype):
    """Trained on float32, served in a narrower dtype: the recorded digest of that dtype is compared."""
    before = fingerprint(adapted())
    assert differing(adapted(dtype), before) == []
    assert len(differing(adapted(dtype, seed=1), before)) == 7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_base_is_recognised_when_widened(dtype):
    """Widening loses nothing, so a float32 copy of the same numbers is the same base; other numbers are not."""
    before = fingerprint(adapted(dtype))
    assert differing(inject(tiny_distilbert().to(dtype).float(), LoRAConfig(rank=4)), before) == []
    assert len(differing(adapted(torch.float64, seed=1), before)) == 7


def test_other_set_of_modules_differs():
    """A weight that was not recorded, and a recorded one that is not there."""
    model = adapted()
    before = fingerprint(model)
    digests = before.pop(V1)
    assert differing(model, before) == [V1]
    assert differing(model, before | {V1: digests, "gone": digests}) == ["gone"]


def test_model_without_frozen_tensors_beside_the_adapted_ones_has_a_fingerprint():
    """The rest may be empty."""
    model = inject(nn.ModuleDict({"a": nn.Linear(4, 4, bias=False)}), LoRAConfig(rank=2, targets=["a"]))
    before = fingerprint(model)
    assert list(before) == ["a.weight", REST]
    assert differing(model, before) == []
