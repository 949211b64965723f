"""A base that does not fit one device: every process holds a part of the frozen tensors (FSDP2).

All processes gather a block's frozen tensors for its forward or backward pass and free them again.
These tensors have no gradient, so nothing else is sent. Adapter and head are small and stay whole
in every process, so training, checkpoints and adapter files work as usual.

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
    """Distribute the encoder's frozen tensors over the processes, in place. Return the same model.

    The rest, and everything that is trained, is moved to `device` whole. Adapt the model first, and
    leave it on the CPU. From now on all processes must run it together and equally often.

    Raises:
        ConfigError: a single process, a base in four bits, or different models.
    """
    from torch.distributed.device_mesh import DeviceMesh  # slow to import
    from torch.distributed.fsdp import fully_shard

    group = working_group()
    if group is None:
        expected = "several, started by torchrun"
        raise ConfigError("there is one process", where="--fsdp", expected=expected)
    if any(isinstance(module, NF4Linear) for module in model.modules()):
        fault, remedy = "a base in four bits is not shared out", "use --base_precision full"
        raise ConfigError(fault, where="--fsdp", remedy=remedy)
    check_same_tensors("the base model", model.state_dict())
    encoder: nn.Module = model.base_model
    trained = {p for p in encoder.parameters() if p.requires_grad}
    options: Any = {
        "mesh": DeviceMesh.from_group(group, device.type),
        "reshard_after_forward": True,
        "ignored_params": trained,
    }
    for block in (*_blocks(encoder), encoder):
        fully_shard(block, **options)
    for tensor in trained:
        tensor.data = tensor.data.to(device)
    for name, child in model.named_children():
        if child is not encoder:
            model.get_submodule(name).to(device)
    return model


def _blocks(encoder: nn.Module) -> list[nn.Module]:
    """Return the modules in the encoder's outermost lists of modules."""
    lists = {name: m for name, m in encoder.named_modules() if isinstance(m, nn.ModuleList)}
    outer = [n for n in lists if not any(n.startswith(f"{other}.") for other in lists)]
    return [block for name in outer for block in lists[name]]
