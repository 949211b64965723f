"""One text through one adapted layer of a saved adapter: the layer's steps, the tokens it moved, and what it decides."""

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
    """What a layer did to a text.

    Args:
        name: of the layer.
        tokens: of the text, as the model reads them.
        rows: what the rows of the walk are: the tokens, if the layer sees one row for each of them.
        trace: every step, in float64.
        rounding: the largest difference of the layer's own output to the walk's, relative to the largest output.
        scores: the probability of every label with the adapter, without this layer's, and without any of it.
    """

    name: str
    layer: AdapterLayer
    tokens: tuple[str, ...]
    rows: tuple[str, ...]
    trace: ForwardTrace
    rounding: float
    scores: dict[str, dict[str, float]]


def explain(saved: TrainedAdapter, text: str, *, module: str | None = None) -> Explanation:
    """Classify the text three times, and walk through the layer on what it was given the first time.

    Args:
        module: the layer's name, or the end of it; the one with the largest ‖ΔW‖ / ‖W‖ if None.

    Raises:
        TargetError: no adapted layer is called so, or several are. DataError: a text that can't be classified.
        ConfigError: the model does not call the layer.
    """
    checked = checked_text("the text", text)
    if isinstance(checked, DataError):
        raise checked
    model = saved.base.model
    name = find_layer(model, module)
    layer = adapter_layers(model)[name]
    encoded = encode([checked], [0], saved.base.tokenizer, max_tokens=saved.max_tokens)
    ids = encoded.tokens.long()[None]  # (1, T)
    with recorded(layer) as calls:
        scores = {"adapter": _scores(model, ids, saved.labels)}
    if not calls:
        raise ConfigError("the model does not call this layer when it classifies", where=name)
    with without(model, [name]):
        scores["without this layer"] = _scores(model, ids, saved.labels)
    with disabled(model):
        scores["without the adapter"] = _scores(model, ids, saved.labels)
    given, gave = calls[0]
    steps = trace(layer, given)
    tokens = tuple(saved.base.tokenizer.convert_ids_to_tokens(ids[0].tolist()))
    count = len(steps.output)
    rows = tokens if count == len(tokens) else tuple(f"row {number}" for number in range(1, count + 1))
    return Explanation(name, layer, tokens, rows, steps, _difference(gave, steps.output), scores)


def find_layer(model: nn.Module, module: str | None) -> str:
    """The one adapted layer whose name is `module` or ends in it; the one moved most, relative to its weight, if None.

    Raises:
        TargetError: none, or several.
    """
    if module is None:
        return max(summarize_adapter(model), key=lambda row: row.relative_norm).name
    names = list(adapter_layers(model))
    found = [module] if module in names else [name for name in names if matches(name, module)]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} adapted layers are called {module!r}" if found else f"no adapted layer is called {module!r}"
    ordered = nearest(module, found or names, count=len(names))
    raise TargetError(what, where="--module", available=ordered, remedy=f"there are, nearest first: {', '.join(ordered)}")


@contextmanager
def recorded(layer: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What the layer is given and gives, call by call."""
    calls: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, given: tuple[Any, ...], gave: Tensor) -> None:
        """Keep what went in and what came out."""
        calls.append((given[0].detach(), gave.detach()))

    handle = layer.register_forward_hook(note)
    try:
        yield calls
    finally:
        handle.remove()


@torch.no_grad()
def _scores(model: Any, ids: Tensor, labels: tuple[str, ...]) -> dict[str, float]:
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]  # (C,)
    return dict(zip(labels, logits.double().softmax(-1).tolist(), strict=True))


def _difference(gave: Tensor, output: Tensor) -> float:
    """max |gave − output| / max |output|, 0 where both are 0."""
    largest = output.abs().max().item()
    off = (gave.reshape(output.shape).double() - output).abs().max().item()
    return off / largest if largest else off
