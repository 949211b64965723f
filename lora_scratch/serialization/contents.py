"""What an adapted model would save, collected once: settings, and tensors by their keys.

The files of the folder are in save.py: adapter_model.safetensors, adapter_config.json, provenance.json, README.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..adapter.config import LoRAConfig
from ..adapter.state import adapter_layers, adapter_state, trained_biases
from ..layers import AdapterLayer, stored_tensors, stores_in_out
from ..model.wrappers import named_modules, plain_name, submodule, unwrapped
from .fingerprint import Fingerprint, fingerprint
from .peft_format import BASE_BIAS, IN_PEFT, PREFIX
from .provenance import Settings, settings_by_module


@dataclass(frozen=True)
class AdapterContents:
    """What an adapted model would save.

    The tensors share the model's memory: writing to one writes to the parameter. Only the factors
    of pissa and olora, which are stored as plain LoRA, are computed anew.

    Args:
        config: the settings, with targets and head modules resolved.
        seed: of the adapter's initialization.
        layers: the adapter layers by module name.
        adapter, biases, heads: the tensors that training changes.
        companions: the tensors of frozen modules that PEFT takes for heads by the ending of their
            name, as `pre_classifier` where `classifier` is one.
    """

    model: nn.Module
    config: LoRAConfig
    seed: int
    layers: dict[str, AdapterLayer]
    adapter: dict[str, Tensor]
    biases: dict[str, Tensor]
    heads: dict[str, Tensor]
    companions: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module) -> AdapterContents:
        """Collect it.

        Raises:
            ConfigError: the model has no adapter.
        """
        model = unwrapped(model)
        state, layers = adapter_state(model), adapter_layers(model)
        names = state.config.head_modules or []
        adapter = {
            f"{PREFIX}{name}.{suffix}": tensor
            for name, layer in layers.items()
            for suffix, tensor in stored_tensors(layer).items()
        }
        biases = {_bias_key(name, layers): b.detach() for name, b in trained_biases(model).items()}
        heads = _module_tensors(model, names)
        companions = _module_tensors(model, _companions(model, names))
        companions = {key: tensor for key, tensor in companions.items() if key not in biases}
        return cls(model, state.config, state.seed, layers, adapter, biases, heads, companions)

    @property
    def trained(self) -> dict[str, Tensor]:
        """The tensors that loading writes to."""
        return self.adapter | self.biases | self.heads

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that the file holds."""
        return self.trained | self.companions

    @property
    def settings(self) -> Settings:
        """Rank, alpha and scaling of each adapted module."""
        return settings_by_module(self.layers, self.config)

    @property
    def needs_own_format(self) -> bool:
        """Whether PEFT would misread the tensors: its formats can't express the variant."""
        return self.config.variant not in IN_PEFT and not all(map(_is_lora, self.layers.values()))

    @property
    def stores_in_out(self) -> bool:
        """Whether an adapted layer stores its weight as (in, out), as Conv1D does."""
        return any(stores_in_out(layer.base) for layer in self.layers.values())

    def fingerprint(self) -> Fingerprint:
        """Hash the base."""
        return fingerprint(self.model)

    def as_bytes(self) -> bytes:
        """Return adapter_model.safetensors."""
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in self.tensors.items()}
        return save(tensors, metadata={"format": "pt"})


def _bias_key(name: str, layers: Iterable[str]) -> str:
    owner = name.rpartition(".")[0]
    return f"{PREFIX}{owner}.{BASE_BIAS}" if owner in layers else f"{PREFIX}{name}"


def _module_tensors(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    states = {name: submodule(model, name).state_dict() for name in names}
    return {f"{PREFIX}{name}.{plain_name(key)}": t for name in states for key, t in states[name].items()}


def _companions(model: nn.Module, heads: list[str]) -> list[str]:
    names = [name for name in named_modules(model) if name.endswith(tuple(heads))]
    inside = tuple(f"{head}." for head in heads)
    return [name for name in names if name not in heads and not name.startswith(inside)]


def _is_lora(layer: AdapterLayer) -> bool:
    """Whether ΔW = scaling · B A of the tensors in the file is what the layer computes."""
    tensors = stored_tensors(layer)
    if set(tensors) != {"lora_A.weight", "lora_B.weight"}:
        return False
    product = layer.scaling * tensors["lora_B.weight"] @ tensors["lora_A.weight"]
    delta = layer.delta_weight().detach().to(product.dtype)
    rounding = 1e-5 * float(product.abs().max())
    return product.shape == delta.shape and torch.allclose(product, delta, rtol=0, atol=rounding)
