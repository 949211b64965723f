"""lora_scratch/serialization/peft_format.py: variants that somebody else registers, saved as what they are."""

import copy
import json

import peft
import pytest
import torch
from support.tiny import tiny_distilbert
from torch import nn

from lora_scratch.adapter import LoRAConfig, inject, remove_adapter
from lora_scratch.errors import AdapterFileError
from lora_scratch.layers import LoRALinear, register, registry
from lora_scratch.serialization import load_adapter, save_adapter

IDS = torch.randint(5, 40, (3, 7), generator=torch.Generator().manual_seed(0))


class Frozen(LoRALinear):
    """Plain LoRA with A as it was drawn."""

    def __init__(self, linear, rank=8, alpha=16, **options):
        super().__init__(linear, rank, alpha, **options)
        self.lora_A.requires_grad_(False)


class Gated(LoRALinear):
    """Tensors that go by LoRA's names, and another product: B is cut off at zero."""

    def forward(self, x):
        return self.base(x) + x @ self.delta_weight().T

    def delta_weight(self):
        return self.scaling * self.lora_B.relu() @ self.lora_A


class Projected(LoRALinear):
    """A tensor of its own beside a projection that is drawn, frozen and not in the file."""

    def __init__(self, linear, rank=8, alpha=16, *, generator=None, **options):
        super().__init__(linear, rank, alpha, generator=generator, **options)
        self.register_buffer("drawn", self.lora_A.detach().clone(), persistent=False)
        del self.lora_A
        self.own = nn.Parameter(torch.zeros(rank))

    def forward(self, x):
        return self.base(x) + x @ self.delta_weight().T

    def delta_weight(self):
        return self.scaling * (self.lora_B * self.own) @ self.drawn

    def adapter_tensors(self):
        return {"lora_B.weight": self.lora_B, "own": self.own}


@pytest.fixture(autouse=True)
def variants(monkeypatch):
    """Registered for one test."""
    monkeypatch.setattr(registry, "_classes", {variant: dict(classes) for variant, classes in registry._classes.items()})
    for cls in (Frozen, Gated, Projected):
        register(cls.__name__.lower(), nn.Linear)(cls)


def saved(variant, folder):
    """A base, and the logits of it with a trained adapter of this variant, which is in `folder`."""
    base = tiny_distilbert().eval()
    model = copy.deepcopy(base)
    inject(model, LoRAConfig(rank=4, alpha=6, variant=variant), seed=3)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(model, folder, base_model="base")
    return base, model(IDS).logits


def settings(folder):
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("variant", ["gated", "projected"])
def test_variant_that_is_not_lora_comes_back_as_itself_and_peft_refuses_it(variant, tmp_path):
    """By name, not by the names of its tensors; what it drew and froze is drawn again from the recorded seed."""
    base, logits = saved(variant, tmp_path / "adapter")
    assert settings(tmp_path / "adapter")["peft_type"] == "LORA_SCRATCH"
    assert "PEFT" not in (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    with pytest.raises((KeyError, ValueError), match="LORA_SCRATCH"):
        peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter")
    assert load_adapter(base, tmp_path / "adapter").variant == variant
    assert torch.equal(base(IDS).logits, logits)


def test_variant_that_is_lora_is_stored_as_lora(tmp_path):
    """So that PEFT reads it."""
    base, logits = saved("frozen", tmp_path / "adapter")
    assert settings(tmp_path / "adapter")["peft_type"] == "LORA"
    assert "variant" not in settings(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter").eval()
    assert torch.allclose(theirs(IDS).logits, logits, atol=1e-5)
    assert load_adapter(base, tmp_path / "adapter").variant == "lora"
    assert torch.equal(base(IDS).logits, logits)


def test_variant_that_nobody_registered_is_refused_and_the_base_is_as_it_was(tmp_path, monkeypatch):
    """The error says which, and what to do."""
    base, _ = saved("projected", tmp_path / "adapter")
    before = base(IDS).logits
    del registry._classes["projected"]
    message = "variant is 'projected', and dora, frozen, gated, lora are registered: import the module that registers it"
    with pytest.raises(AdapterFileError, match=message):
        load_adapter(base, tmp_path / "adapter")
    assert torch.equal(base(IDS).logits, before)


@pytest.mark.parametrize("change", [{"variant": "gated"}, {"peft_type": "LORA", "variant": "gated"}, {"variant": None}])
def test_variant_beside_pefts_own_type_is_refused(change, tmp_path):
    """A folder says one thing only."""
    base, _ = saved("frozen" if "peft_type" not in change else "gated", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**settings(tmp_path / "adapter"), **change}))
    with pytest.raises(AdapterFileError, match=r"variant is .*which is not supported"):
        load_adapter(base, tmp_path / "adapter")


def test_untrained_adapter_of_any_variant_is_the_base_again_when_loaded(tmp_path):
    """B = 0 is no proof of a formula: what it computes comes back all the same."""
    for variant in ("frozen", "gated", "projected"):
        base = tiny_distilbert().eval()
        model = copy.deepcopy(base)
        inject(model, LoRAConfig(rank=4, alpha=6, variant=variant), seed=3)
        save_adapter(model, tmp_path / variant, base_model="base")
        load_adapter(base, tmp_path / variant)
        assert torch.equal(base(IDS).logits, model(IDS).logits)
        remove_adapter(base)
