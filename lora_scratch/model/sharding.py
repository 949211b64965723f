"""A base that does not fit one device: every process holds a share of the frozen tensors (FSDP2, `fully_shard`).

A block's frozen tensors come together for the time of its forward or backward pass and are let go again. They get no
gradient, so nothing else of them travels. Adapter and head are small: they stay whole in every process, and training,
checkpoints and adapter files deal with them as ever.

Source: Zhao et al. 2023, PyTorch FSDP, arXiv:2304.11277; torch.distributed.fsdp.fully_shard.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from ..layers import NF4Linear
from ..runtime.distributed import working_group
from ..runtime.ranks import check_same_tensors


def shard_base(model: Any, device: torch.device) -> Any:
    """Share the frozen tensors of the encoder out over the processes, in place, and put all that stays whole on `device`.

    Only a block at a time is whole on `device`; the model should still be on the CPU. From now on all processes
    have to go through the model together, as often as each other.

    Args:
        model: a sequence classifier of transformers, adapted already: who is trained stays whole.

    Returns:
        The same model.

    Raises:
        ConfigError: a world of one, a base in four bits, or processes with different models.
    """
    from torch.distributed.device_mesh import DeviceMesh  # here, because they take seconds to import
    from torch.distributed.fsdp import fully_shard

    group = working_group()
    if group is None:
        raise ConfigError("there is one process", where="--fsdp", expected="several, started by torchrun")
    if any(isinstance(module, NF4Linear) for module in model.modules()):
        raise ConfigError("a base in four bits is not shared out", where="--fsdp", remedy="use --base_precision full")
    check_same_tensors("the base model", model.state_dict())
    encoder: nn.Module = model.base_model
    options: Any = {
        "mesh": DeviceMesh.from_group(group, device.type),
        "reshard_after_forward": True,
        "ignored_params": {p for p in encoder.parameters() if p.requires_grad},
    }
    for block in _blocks(encoder):
        fully_shard(block, **options)
    fully_shard(encoder, **options)
    for tensor in options["ignored_params"]:
        tensor.data = tensor.data.to(device)
    for name, child in model.named_children():
        if child is not encoder:
            model.get_submodule(name).to(device)
    return model


def _blocks(encoder: nn.Module) -> list[nn.Module]:
    """What stands in the encoder's outermost lists of modules."""
    lists = {name: module for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    return [block for name in outer for block in lists[name]]
