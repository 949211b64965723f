"""Parameters that stand in more than one place of a model: adapting one place alone would untie them without a word."""

from __future__ import annotations

import torch
from torch import nn


def shared_names(model: nn.Module, module_name: str) -> list[str]:
    """The parameters outside a module that have the memory of one inside it: the tied output layer of an embedding.

    A module that is itself registered in two places shows too.
    """
    inside: dict[tuple[torch.device, int], list[str]] = {}
    outside: dict[tuple[torch.device, int], list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        # tensors on the meta device all stand at address 0
        place = (parameter.device, parameter.data_ptr() or id(parameter))
        (inside if name.startswith(f"{module_name}.") else outside).setdefault(place, []).append(name)
    return [name for place in inside for name in outside.get(place, [])]
