"""Start a training from a trained adapter: A and B are the adapter's; its head stays if the labels are equal.

Source: Hu et al. 2021, LoRA, arXiv:2106.09685, appendix D.1: MRPC, RTE and STS-B start from the adapter of MNLI.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter import LoRAConfig
from ..errors import ConfigError
from ..model.base import Base, output_layer
from ..serialization.adapter_folder import WEIGHTS
from ..serialization.contents import AdapterContents
from ..serialization.peft_format import PREFIX
from ..tasks import task_of
from .options import WITH_ADAPTER
from .trained_adapter import TrainedAdapter, open_adapter

FLAG = "--start_from"


@dataclass(frozen=True)
class Start:
    """A trained adapter that a training starts from.

    Args:
        config: its settings, which count in place of the flags.
        tensors: its tensors by their keys in the file; those of the head only if it is kept.
    """

    folder: Path
    config: LoRAConfig
    tensors: Mapping[str, Tensor]
    keeps_head: bool

    def __str__(self) -> str:
        head = "and its head" if self.keeps_head else "the head starts new, since the labels differ"
        return f"{self.folder}: A and B, {head}; --rank and other adapter flags have no effect"

    def record(self) -> dict[str, Any]:
        """Return what config.json and provenance.json say of it."""
        digest = hashlib.sha256((self.folder / WEIGHTS).read_bytes()).hexdigest()
        return {"folder": str(self.folder), "adapter_sha256": digest, "keeps_head": self.keeps_head}

    @torch.no_grad()
    def copy_into(self, model: nn.Module) -> None:
        """Copy the tensors into a model that was adapted with `config`."""
        for name, tensor in AdapterContents.of(model).trained.items():
            if name in self.tensors:
                tensor.copy_(self.tensors[name])


def open_start(folder: str, base: Base, *, trainable: str, base_precision: str) -> Start:
    """Open the adapter `folder` for a training on `base`.

    Raises:
        AdapterFileError: the folder, or its fit to the base.
        ConfigError: no adapter is trained, or the base is in another precision than the adapter's.
    """
    if trainable not in WITH_ADAPTER:
        raise ConfigError(f"with --trainable {trainable}", where=FLAG, expected=f"one of {', '.join(WITH_ADAPTER)}")
    saved = open_adapter(folder, model=base.name)
    precision = saved.provenance.base.precision
    if precision != base_precision:
        problem = f"the adapter was trained on a base in precision {precision}"
        raise ConfigError(problem, where=f"{FLAG} {folder}", remedy=f"use --base_precision {precision}")
    contents, order = AdapterContents.of(saved.base.model), _head_order(saved, base)
    head = {} if order is None else _in_order(contents.heads, order, layer=output_layer(saved.base.model))
    config = replace(saved.config, init="default", head_modules=None)
    return Start(saved.folder, config, {**contents.adapter, **contents.biases, **head}, keeps_head=order is not None)


def _head_order(saved: TrainedAdapter, base: Base) -> list[int] | None:
    """Return for every label of the new task its output in the adapter's head; None if the labels differ."""
    task, labels = task_of(base.model), list(saved.labels)
    if task.name != saved.task.name or sorted(labels) != sorted(task.labels):
        return None
    return [labels.index(label) for label in task.labels]


def _in_order(head: Mapping[str, Tensor], order: Sequence[int], *, layer: str | None) -> dict[str, Tensor]:
    """Return the tensors of the head, with the outputs of its last layer in this order."""
    return {
        name: tensor[list(order)] if layer and name.startswith(f"{PREFIX}{layer}.") else tensor
        for name, tensor in head.items()
    }
