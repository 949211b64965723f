"""lora_scratch/adapter/eva.py: A from what the layers are fed."""

import pytest
import torch
from support.tiny import tiny_distilbert

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject, is_adapted
from lora_scratch.errors import ConfigError

CONFIG = LoRAConfig(rank=4, dropout=0.5, init="eva")


def batches(count=3):
    """Rows with padding at the end of every second one."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(4, 6, dtype=torch.int64)
    mask[::2, 4:] = 0
    return [{"input_ids": torch.randint(1, 60, (4, 6), generator=generator), "attention_mask": mask} for _ in range(count)]


def test_eva_starts_from_exactly_the_base():
    """B stays zero."""
    model = inject(tiny_distilbert(), CONFIG, batches=batches())
    ids = batches()[0]["input_ids"]
    assert torch.equal(model(ids).logits, tiny_distilbert()(ids).logits)


def test_eva_gives_a_the_leading_directions_of_the_layers_inputs():
    """The right singular vectors of all real tokens that a layer saw, up to sign."""
    plain, seen = tiny_distilbert(), []
    layer = plain.distilbert.transformer.layer[1].attention.k_lin
    with torch.no_grad():
        for batch in batches():
            hook = layer.register_forward_pre_hook(lambda _, args, m=batch["attention_mask"]: seen.append(args[0][m.bool()]))
            plain(**batch)
            hook.remove()
    expected = torch.linalg.svd(torch.cat(seen)).Vh[:4]
    model = inject(tiny_distilbert(), CONFIG, batches=batches())
    found = adapter_layers(model)["distilbert.transformer.layer.1.attention.k_lin"].lora_A
    assert torch.linalg.svdvals(found @ expected.T).min() > 0.999
    torch.testing.assert_close(found @ found.T, torch.eye(4), rtol=1e-4, atol=1e-5)


def test_eva_leaves_modes_and_no_hooks_behind():
    """Training stays training, and nothing watches the next forward."""
    model = inject(tiny_distilbert().train(), CONFIG, batches=batches())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_eva_without_data_is_refused():
    """It would be the default start under another name."""
    with pytest.raises(
        ConfigError, match=r"^--init: init eva looks at data and was given none; pass inject\(batches=...\)$"
    ):
        inject(tiny_distilbert(), CONFIG)


@pytest.mark.parametrize("given", [[], [{"input_ids": torch.tensor([[3]])}]])
def test_eva_with_too_little_data_is_refused_and_leaves_the_model_as_it_was(given):
    """One token spans one direction, not four."""
    model = tiny_distilbert()
    with pytest.raises(ConfigError, match=r"init eva, .*q_lin: the inputs span \d directions"):
        inject(model, CONFIG, batches=given)
    assert not is_adapted(model)
    assert all(p.requires_grad for p in model.parameters())


def test_eva_leaves_no_hook_after_a_failing_forward():
    """The model is plain again and answers as before."""
    model = tiny_distilbert()
    with pytest.raises(IndexError):
        inject(model, CONFIG, batches=[{"input_ids": torch.tensor([[10**6]])}])
    assert not is_adapted(model)
    assert not any(module._forward_pre_hooks for module in model.modules())
