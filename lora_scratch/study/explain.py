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
from ..data import Batch, checked_text, collate, encode
from ..errors import ConfigError, DataError, TargetError
from ..layers import AdapterLayer
from ..model.forward import classify
from ..runs.sides import check_sides
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
        scores: the probability of every label, or the number that is predicted: with the adapter, without
            this layer, without all.
        chosen: the labels that are predicted, in the same three; None for a number.
    """

    name: str
    layer: AdapterLayer
    rows: tuple[str, ...]
    trace: ForwardTrace
    rounding: float
    scores: dict[str, dict[str, float]]
    chosen: dict[str, list[str] | None]


def explain(saved: TrainedAdapter, text: str, *, pair: str | None = None, module: str | None = None) -> Explanation:
    """Classify the text, or the pair of texts, and trace the layer on its input; the model is not changed.

    Args:
        module: the name of the layer, or its end; the one with the largest ‖ΔW‖ / ‖W‖ if None.

    Raises:
        TargetError: no adapted layer has this name, or several. DataError: an invalid text, or one text for an
            adapter of pairs, or the other way round.
        ConfigError: the model does not call the layer.
    """
    texts = [_checked(text, "the text"), *([] if pair is None else [_checked(pair, "the second text")])]
    check_sides(saved.provenance.data, pairs=pair is not None, where="explain")
    model, tokenizer = saved.base.model, saved.base.tokenizer
    name = find_layer(model, module)
    layer = adapter_layers(model)[name]
    encoded = encode(texts[:1], [0], tokenizer, max_tokens=saved.max_tokens, pairs=texts[1:] or None)
    batch = collate(encoded, [0], pad_token_id=saved.base.pad_token_id)
    with recorded(layer) as calls:
        answers = {"adapter": _answer(saved, batch)}
    if not calls:
        raise ConfigError("the model does not call this layer when it classifies", where=name)
    with without(model, [name]):
        answers["without this layer"] = _answer(saved, batch)
    with disabled(model):
        answers["without the adapter"] = _answer(saved, batch)
    x, y = calls[0]
    steps = trace(layer, x)
    tokens, count = tuple(tokenizer.convert_ids_to_tokens(encoded.tokens.tolist())), len(steps.output)
    rows = tokens if count == len(tokens) else tuple(f"row {i}" for i in range(1, count + 1))
    scores = {column: saved.task.scored(answer) for column, answer in answers.items()}
    chosen = {column: saved.task.chosen(answer) for column, answer in answers.items()}
    return Explanation(name, layer, rows, steps, _rounding(y, steps.output), scores, chosen)


def _checked(text: str, place: str) -> str:
    checked = checked_text(place, text)
    if isinstance(checked, DataError):
        raise checked
    return checked


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
def _answer(saved: TrainedAdapter, batch: Batch) -> dict[str, Any]:
    """Return the task's answer to the only row."""
    return saved.task.answers(classify(saved.base.model, batch).double())[0]


def _rounding(y: Tensor, exact: Tensor) -> float:
    """Return max |y − exact| / max |exact|, 0 where both are 0."""
    largest = exact.abs().max().item()
    difference = (y.reshape(exact.shape).double() - exact).abs().max().item()
    return difference / largest if largest else difference
