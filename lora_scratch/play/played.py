"""An adapter on the page: what there is to switch, and the answer in every state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..adapter import adapter_layers, disabled
from ..data import Batch, checked_text, collate, encode
from ..errors import ConfigError, DataError
from ..model.forward import classify
from ..reporting.anatomy import depth, projections
from ..runs.sides import check_sides
from ..runs.trained_adapter import TrainedAdapter
from ..study.anatomy import summarize_adapter
from ..study.explain import find_layer, recorded
from ..study.trace import ForwardTrace, trace
from .changed import changed_rows
from .code import python_code
from .directions import fixed_rank, strongest_first
from .state import State, in_state
from .steps import layer_as_json

Json = dict[str, Any]


@dataclass(frozen=True)
class _Text:
    """A text as the model reads it, and the base's answer, which no switch changes."""

    batch: Batch
    tokens: list[str]
    base: Json


class PlayedAdapter:
    """A trained adapter and its base. Figures that do not depend on the state are computed once.

    Args:
        opened: the keyword arguments that `open_adapter` was called with.
    """

    def __init__(self, saved: TrainedAdapter, opened: Mapping[str, Any]) -> None:
        self.saved, self.opened = saved, opened
        self.model, self.task = saved.base.model, saved.task
        self.summaries = summarize_adapter(self.model)
        self.factors = strongest_first(self.model)
        self._last: tuple[tuple[str, str | None], _Text] | None = None

    @torch.no_grad()
    def answer(self, state: State) -> Json:
        """Return what the page shows in this state; afterwards the model has its former bits.

        Raises:
            DataError: an invalid text, one text in place of two, or outputs that are not finite.
            ConfigError: a module or a rank that the adapter does not have.
        """
        text = self._read(state.text, state.pair)
        name = find_layer(self.model, state.module)
        layer = adapter_layers(self.model)[name]
        with in_state(self.model, state, self.factors):
            with recorded(layer) as calls:
                adapted = self._decide(text.batch)
            if not calls:
                raise ConfigError("the model does not call this layer when it classifies", where=name)
            steps = trace(layer, calls[0][0])
            row = _row(steps, state.row)
            inside = layer_as_json(layer, steps, row)
        rows = len(steps.output)
        tokens = text.tokens if len(text.tokens) == rows else [f"row {i}" for i in range(1, rows + 1)]
        code = python_code(state, folder=str(self.saved.folder), opened=self.opened, module=name, row=row)
        return {"base": text.base, "adapted": adapted, "tokens": tokens, "row": row, "module": name, **inside, "code": code}

    def description(self, name: str) -> Json:
        """Return what the page has to know before the first text."""
        settings, data = self.task.settings(), self.saved.provenance.data
        return {
            "name": name,
            "folder": str(self.saved.folder),
            "base": self.saved.base.name,
            "task": self.task.name,
            "labels": list(self.task.labels),
            "thresholds": settings.get("thresholds"),
            "pairs": None if data.text_column is None else data.pair_column is not None,
            "fixed_rank": fixed_rank(self.model),
            "kept": self._kept(),
            "modules": self._modules(),
            "first": self._first(),
            "changed": changed_rows(self.saved),
        }

    def _read(self, text: str, pair: str | None) -> _Text:
        if self._last is None or self._last[0] != (text, pair):
            self._last = ((text, pair), self._encode(text, pair))
        return self._last[1]

    def _encode(self, text: str, pair: str | None) -> _Text:
        for side, words in ((text, "the text"), (pair, "the second text")):
            fault = None if side is None else checked_text(words, side)
            if isinstance(fault, DataError):
                raise fault
        check_sides(self.saved.provenance.data, pairs=pair is not None, where="play")
        base = self.saved.base
        pairs = None if pair is None else [pair]
        encoded = encode([text], [0], base.tokenizer, max_tokens=self.saved.max_tokens, pairs=pairs)
        batch = collate(encoded, [0], pad_token_id=base.pad_token_id)
        with disabled(self.model):
            answer = self._decide(batch)
        return _Text(batch, base.tokenizer.convert_ids_to_tokens(encoded.tokens.tolist()), answer)

    def _decide(self, batch: Batch) -> Json:
        logits = classify(self.model, batch).double()
        if not logits.isfinite().all():
            raise DataError("the model's outputs are NaN or infinite", where="play", remedy="choose a lower strength")
        answer = self.task.answers(logits)[0]
        return {"scores": self.task.scored(answer), "chosen": self.task.chosen(answer), "named": self.task.named(answer)}

    def _kept(self) -> list[float]:
        """Return the share of Σ‖ΔW‖² in the first 1, 2, ... directions of every module."""
        squares = [torch.tensor(row.singular_values).square() for row in self.summaries]
        total = sum(float(values.sum()) for values in squares)
        ranks = range(1, max(map(len, squares)) + 1)
        return [sum(float(values[:k].sum()) for values in squares) / total if total else 1.0 for k in ranks]

    def _first(self) -> str:
        """Return the module to show first: the one moved most of those in layers, since it sees all tokens."""
        inside = [row for row in self.summaries if depth(row.name) != "-"]
        return max(inside or self.summaries, key=lambda row: row.relative_norm).name

    def _modules(self) -> list[Json]:
        named = projections([row.name for row in self.summaries])
        return [
            {"name": row.name, "layer": depth(row.name), "projection": named[row.name], "norm": row.relative_norm}
            for row in self.summaries
        ]


def _row(steps: ForwardTrace, row: int | None) -> int:
    """Return the row that is shown: the wanted one, at most the last, or the one moved most."""
    return int(steps.moved().argmax()) if row is None else min(row, len(steps.output) - 1)
