"""Open several adapter folders over one base. Classify each row by the adapter that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import NF4, quantize_base
from ..data import Batch, encode
from ..errors import AdapterFileError, ConfigError, DataError
from ..evaluation import Predictor
from ..fast.frozen_weights import fast_products
from ..model import Base
from ..model.forward import evaluating
from ..runs.hub import local_adapter
from ..runs.loading import open_base
from ..runtime.precision import Precision
from ..serialization import Provenance, read_provenance
from .bank import BASE, AdapterBank
from .classify import Classified


@dataclass(frozen=True)
class ServedBank:
    """Adapters that are ready for rows.

    Args:
        base: the bank's model, with its own head where it has one.
        max_tokens: the length that an adapter's rows are cut to, as in its training; for `base` the
            largest of these.
    """

    base: Base
    bank: AdapterBank
    max_tokens: Mapping[str, int]


def open_bank(
    folders: Mapping[str, str | Path], *, model: str | None = None, device: torch.device | str = "cpu"
) -> ServedBank:
    """Load the base that the adapters name (or `model`), with a bank of these adapters in it.

    Args:
        folders: by the names that rows use; as the command train writes them, or `hub:owner/name`.

    Raises:
        ConfigError: adapters of different bases.
        AdapterFileError, ModelError: as for `open_adapter`.
    """
    places = {name: local_adapter(folder) for name, folder in folders.items()}
    recorded = {name: _provenance(folder) for name, folder in places.items()}
    bases = {f"{model or p.base.name} ({p.base.precision})": p for p in recorded.values()}
    if len(bases) != 1:
        raise ConfigError(
            f"the adapters are for different bases: {', '.join(sorted(bases))}", remedy="name one that fits all with --model"
        )
    (first,) = bases.values()
    base = open_base(model or first.base.name)
    if first.base.precision == NF4:
        quantize_base(base.model, heads=first.head_modules)
    bank = AdapterBank(base.model.to(device), capacity=len(places), must_cover=base.newly_initialized)
    for name, folder in places.items():
        bank.add(name, folder)
    limits = {name: provenance.data.max_tokens or 0 for name, provenance in recorded.items()}
    return ServedBank(base, bank, {**limits, BASE: max(limits.values())})


def classify_rows(
    served: ServedBank,
    texts: Sequence[str],
    adapters: Sequence[str],
    *,
    precision: Precision,
    batch_tokens: int | None = None,
) -> list[Classified]:
    """Return every text with the label that its adapter gives it, in the order of the texts.

    Raises:
        DataError: a row for `base`, whose own head would be random.
    """
    if served.base.newly_initialized and BASE in adapters:
        raise DataError(
            f"{served.base.name} has no head of its own: {', '.join(served.base.newly_initialized[:2])} would be random",
            where=f"a row for {BASE!r}",
            expected=f"one of {', '.join(served.bank.adapters)}",
        )
    limits = [served.max_tokens[adapter] for adapter in adapters]
    classified: dict[int, Classified] = {}
    pad_token_id = served.base.pad_token_id
    predictor = Predictor(served.base.model, precision, pad_token_id, batch_tokens=batch_tokens)
    with evaluating(served.base.model), fast_products(served.base.model, precision):
        for limit in sorted(set(limits)):
            rows = [row for row, own in enumerate(limits) if own == limit]
            named = [adapters[row] for row in rows]
            encoded = encode([texts[row] for row in rows], [0] * len(rows), served.base.tokenizer, max_tokens=limit)
            answer = partial(_answer, served.bank, named)
            logits = predictor.map_rows(answer, encoded)
            for row, adapter, own in zip(rows, named, logits, strict=True):
                classified[row] = _classified(texts[row], own, served.bank.labels[adapter])
    return [classified[row] for row in range(len(texts))]


def _answer(bank: AdapterBank, named: Sequence[str], batch: Batch) -> Tensor:
    """Return the logits of a batch of rows; `named` are the adapters of all rows."""
    with bank.rows([named[row] for row in batch.rows.tolist()]) as model:
        return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits  # type: ignore[no-any-return]


def _classified(text: str, logits: Tensor, labels: Sequence[str]) -> Classified:
    """Return the label of a row. Shape: logits (widest,), -inf after the adapter's labels."""
    scores = logits.softmax(-1).tolist()
    return Classified(text, labels[int(logits.argmax())], dict(zip(labels, scores, strict=False)))


def _provenance(folder: Path) -> Provenance:
    provenance = read_provenance(folder)
    if not (provenance and provenance.labels and provenance.base.name and provenance.data.max_tokens):
        raise AdapterFileError(
            ["provenance.json does not name the labels, the base model and the length of its rows"],
            where=str(folder),
            expected="an adapter folder that `train` wrote",
        )
    return provenance
