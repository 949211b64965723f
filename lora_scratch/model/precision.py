"""The precision that a family needs, whatever was asked for.

DeBERTa (the first version) fills masked scores with float32's lowest number, which overflows in half
precision. So it computes in float32 everywhere: in training, evaluation and prediction.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ..runtime.precision import DTYPES, Precision
from .families import family_of


def family_precision(model: nn.Module, precision: Precision) -> Precision:
    """Return `precision`, or the one precision that the model's family computes in."""
    family = family_of(model)
    return replace(precision, dtype=DTYPES[family.precision]) if family and family.precision else precision


def precision_note(model: nn.Module) -> str:
    """Return what the user should know about the family's precision; mostly nothing."""
    family = family_of(model)
    return f"it computes in {family.precision} alone: half precision overflows" if family and family.precision else ""
