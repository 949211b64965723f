"""Pad a batch as its family does, and remember which models no padding suits.

`collate` pads on the right. The head of XLNet reads the last token, so its rows are padded on the
left. Convolutions and Fourier transforms read the padding itself: only rows of one length give the
logits of a row alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .families import LEFT, UNSUITED, family_of

MASK = "attention_mask"
IDS = "input_ids"


def pad_as_family(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs of `model`, padded as its family pads. Shape: (B, T) each, with a mask.

    Args:
        inputs: padded on the right, as `collate` gives them.
    """
    family = family_of(model)
    if family is None or family.padding != LEFT:
        return inputs
    mask = inputs[MASK]
    width, lengths = mask.shape[1], mask.sum(1, keepdim=True)  # (B, 1)
    place = (torch.arange(width, device=mask.device) + lengths) % width  # (B, T): the padding comes first
    return {name: x.gather(1, place) for name, x in inputs.items()}


def need_equal_lengths(model: nn.Module) -> bool:
    """Return whether evaluation may only batch rows of one length, since padding changes the logits."""
    family = family_of(model)
    known = family is not None and family.padding == UNSUITED
    return known or bool(getattr(model, "_equal_lengths", False))


def set_equal_lengths(model: nn.Module) -> None:
    """Let evaluation and prediction batch only rows of one length."""
    model._equal_lengths = True  # type: ignore[assignment]
