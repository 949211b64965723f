"""The plain forward pass of a classifier, and the one line by which the core enters the fast path.

    logits = classify(model, batch)                     # plain: the model's own code, padded
    with forward_path(model, precision, plain=False):   # inside, the same call is fast
        logits = classify(model, batch)

The fast path replaces `forward` of the model and of its layers for a while (fast/path.py). So the
code that trains and predicts is the same on both paths.

`collate` pads on the right. The head of XLNet reads the last token, so its rows are padded on the
left. Convolutions and Fourier transforms read the padding itself: only rows of one length give the
logits of a row alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..runtime.precision import Precision
from .path import ForwardPath

if TYPE_CHECKING:
    from ..data import Batch


def classify(model: Any, batch: Batch) -> Tensor:
    """Return the logits of a batch. Shape: -> (B, C)."""
    logits: Tensor = model(**pad_as_family(model, batch.inputs)).logits
    return logits


def pad_as_family(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs of `model`, padded as its family pads. Shape: (B, T) each, with a mask.

    Args:
        inputs: padded on the right, as `collate` gives them.
    """
    from .families import LEFT, family_of  # the table: one need not read it to follow a batch

    family = family_of(model)
    if family is None or family.padding != LEFT:
        return inputs
    mask = inputs["attention_mask"]
    width, lengths = mask.shape[1], mask.sum(1, keepdim=True)  # (B, 1)
    place = (torch.arange(width, device=mask.device) + lengths) % width  # (B, T): the padding comes first
    return {name: x.gather(1, place) for name, x in inputs.items()}


def need_equal_lengths(model: nn.Module) -> bool:
    """Return whether evaluation may only batch rows of one length, since padding changes the logits."""
    from .families import UNSUITED, family_of

    family = family_of(model)
    known = family is not None and family.padding == UNSUITED
    return known or bool(getattr(model, "_equal_lengths", False))


def set_equal_lengths(model: nn.Module) -> None:
    """Let evaluation and prediction batch only rows of one length."""
    model._equal_lengths = True  # type: ignore[assignment]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode inside. Afterwards every module has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def forward_path(
    model: Any,
    precision: Precision,
    *,
    plain: bool = False,
    choices: Mapping[str, Any] | None = None,
) -> Iterator[ForwardPath]:
    """Make `classify(model, batch)` fast inside the `with` block.

    After the block the model is as before, except for its trained tensors.

    Args:
        plain: change nothing. The model's own code runs, with padding.
        choices: the `choices()` of an earlier process, to be repeated.
    """
    if plain:
        yield ForwardPath()
        return
    from ..fast.path import fast_path  # the only place where the core enters a wing

    with fast_path(model, precision, choices=choices) as path:
        yield path
