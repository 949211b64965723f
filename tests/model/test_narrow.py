"""lora_scratch/model/narrow.py: the bits of autocast, without its copies, and nothing of the model changed."""

from contextlib import suppress

import pytest
import torch
from families import record, tiny
from tiny import tiny_distilbert, tiny_rows

from lora_scratch.adapter import LoRAConfig, adapter_layers, fingerprint, inject
from lora_scratch.data import collate
from lora_scratch.model.narrow import narrow_weights
from lora_scratch.model.packed import classify
from lora_scratch.runtime.precision import Precision

CPU = torch.device("cpu")
BATCH = collate(tiny_rows(), list(range(8)), pad_token_id=0)


def adapted(family="distilbert", **settings):
    model = inject(tiny(family), LoRAConfig(rank=4, alpha=12, **settings))
    for layer in adapter_layers(model).values():
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    return model


def logits_and_gradients(model, precision):
    model.zero_grad(set_to_none=True)
    with precision.autocast():
        logits = classify(model, BATCH)
    logits.float().square().sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_logits_and_gradients_are_autocasts_bit_for_bit(dtype, variant):
    """The same rounding of the same numbers."""
    model, precision = adapted(variant=variant), Precision(dtype, CPU)
    expected = logits_and_gradients(model, precision)
    with narrow_weights(model, precision):
        found = logits_and_gradients(model, precision)
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_weights_are_rounded_once_and_not_in_every_pass():
    """Inside, a pass copies no frozen weight of a linear layer."""
    model, precision = adapted(), Precision(torch.bfloat16, CPU)
    frozen = {tuple(m.weight.shape) for m in model.modules() if type(m) is torch.nn.Linear and not m.weight.requires_grad}

    def copies():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as seen:
            logits_and_gradients(model, precision)
        return sum(tuple(event.input_shapes[0]) in frozen for event in seen.events() if event.name == "aten::_to_copy")

    before = copies()
    with narrow_weights(model, precision):
        inside = copies()
    assert before > 0
    assert inside <= before - 2 * 6  # two blocks of six frozen linear layers


def test_nothing_of_the_model_changes_inside_or_afterwards():
    """Fingerprint, tensors, types and modes are those of before; a pass without autocast is in float32, bit for bit."""
    model, precision = adapted(), Precision(torch.bfloat16, CPU)
    before, prints = record(model), fingerprint(model)
    logits = classify(model, BATCH)
    with suppress(KeyError), narrow_weights(model, precision):
        assert record(model) == before
        assert fingerprint(model) == prints
        assert torch.equal(classify(model, BATCH), logits)
        raise KeyError
    assert record(model) == before
    assert not any("forward" in vars(module) for module in model.modules())


def test_trained_layers_are_left_to_autocast():
    """A trained weight changes with every step, so that a copy would be out of date."""
    model = adapted(head_modules=["classifier"], bias="all")
    with narrow_weights(model, Precision(torch.bfloat16, CPU)):
        assert not any("forward" in vars(m) for m in model.modules() if any(p.requires_grad for p in m.parameters()))
    full = tiny_distilbert()
    with narrow_weights(full, Precision(torch.bfloat16, CPU)):
        assert not any("forward" in vars(m) for m in full.modules())


def test_a_context_inside_another_leaves_the_outer_one_in_force():
    """Validation in mid-training is such a context."""
    model, precision = adapted(), Precision(torch.bfloat16, CPU)
    with narrow_weights(model, precision):
        with narrow_weights(model, precision):
            pass
        assert any("forward" in vars(module) for module in model.modules())
