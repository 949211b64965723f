"""One text through one adapted layer: the steps, the tokens it moved, and the predictions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter import adapter_layers, disabled, without
from ..adapter.targets import matches, nearest
from ..data import checked_text, encode
from ..errors import ConfigError, DataError, TargetError
from ..layers import AdapterLayer
from ..runs.trained_adapter import TrainedAdapter
from .anatomy import summarize_adapter
from .trace import ForwardTrace, trace


@dataclass(frozen=True)
class Explanation:
    """The effect of one layer on a text.

    Args:
        rows: the names of the rows of the trace: the tokens, if the layer has one row for each.
        trace: every step, in float64.
        rounding: max |y − trace| / max |trace|, with the layer's own output y.
        scores: the probability of every label: with the adapter, without this layer, without all.
    """

    name: str
    layer: AdapterLayer
    rows: tuple[str, ...]
    trace: ForwardTrace
    rounding: float
    scores: dict[str, dict[str, float]]


def explain(saved: TrainedAdapter, text: str, *, module: str | None = None) -> Explanation:
    """Classify the text, and trace the layer on its input; the model is not changed.

    Args:
        module: the name of the layer, or its end; the one with the largest ‖ΔW‖ / ‖W‖ if None.

    Raises:
        TargetError: no adapted layer has this name, or several. DataError: an invalid text.
        ConfigError: the model does not call the layer.
    """
    checked = checked_text("the text", text)
    if isinstance(checked, DataError):
        raise checked
    model, tokenizer = saved.base.model, saved.base.tokenizer
    name = find_layer(model, module)
    layer = adapter_layers(model)[name]
    encoded = encode([checked], [0], tokenizer, max_tokens=saved.max_tokens)
    ids = encoded.tokens.long()[None]  # (1, T)
    with recorded(layer) as calls:
        scores = {"adapter": _scores(model, ids, saved.labels)}
    if not calls:
        raise ConfigError("the model does not call this layer when it classifies", where=name)
    with without(model, [name]):
        scores["without this layer"] = _scores(model, ids, saved.labels)
    with disabled(model):
        scores["without the adapter"] = _scores(model, ids, saved.labels)
    x, y = calls[0]
    steps = trace(layer, x)
    tokens, count = tuple(tokenizer.convert_ids_to_tokens(ids[0].tolist())), len(steps.output)
    rows = tokens if count == len(tokens) else tuple(f"row {i}" for i in range(1, count + 1))
    return Explanation(name, layer, rows, steps, _rounding(y, steps.output), scores)


def find_layer(model: nn.Module, module: str | None) -> str:
    """Return the name of the adapted layer that is, or ends in, `module`.

    None stands for the layer with the largest ‖ΔW‖ / ‖W‖. Raises TargetError for none or several.
    """
    if module is None:
        return max(summarize_adapter(model), key=lambda row: row.relative_norm).name
    names = list(adapter_layers(model))
    candidates = [module] if module in names else [n for n in names if matches(n, module)]
    if len(candidates) == 1:
        return candidates[0]
    number = f"{len(candidates)} adapted layers are" if candidates else "no adapted layer is"
    ordered = nearest(module, candidates or names, count=len(names))
    raise TargetError(
        f"{number} called {module!r}",
        where="--module",
        available=ordered,
        remedy=f"there are, nearest first: {', '.join(ordered)}",
    )


@contextmanager
def recorded(layer: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collect input and output of every call of the layer."""
    calls: list[tuple[Tensor, Tensor]] = []

    def record(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Add one call."""
        calls.append((inputs[0].detach(), output.detach()))

    handle = layer.register_forward_hook(record)
    try:
        yield calls
    finally:
        handle.remove()


@torch.no_grad()
def _scores(model: Any, ids: Tensor, labels: tuple[str, ...]) -> dict[str, float]:
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]  # (C,)
    return dict(zip(labels, logits.double().softmax(-1).tolist(), strict=True))


def _rounding(y: Tensor, exact: Tensor) -> float:
    """Return max |y − exact| / max |exact|, 0 where both are 0."""
    largest = exact.abs().max().item()
    difference = (y.reshape(exact.shape).double() - exact).abs().max().item()
    return difference / largest if largest else difference
