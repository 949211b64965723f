"""The plain forward pass of a classifier, and the one line by which the core enters the fast path.

    logits = classify(model, batch)                     # plain: the model's own code, padded
    with forward_path(model, precision, plain=False):   # inside, the same call is fast
        logits = classify(model, batch)

The fast path replaces `forward` of the model and of its layers for a while (fast/path.py). So the
code that trains and predicts is the same on both paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..runtime.precision import Precision
from .padding import pad_as_family
from .path import ForwardPath

if TYPE_CHECKING:
    from ..data import Batch


def classify(model: Any, batch: Batch) -> Tensor:
    """Return the logits of a batch. Shape: -> (B, C)."""
    logits: Tensor = model(**pad_as_family(model, batch.inputs)).logits
    return logits


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
