"""Adapter folders opened side by side over one base, and rows classified by the adapter that each one names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapter import NF4, quantize_base
from ..adapter.quantize import FULL
from ..data import Batch, encode
from ..errors import AdapterFileError, ConfigError, DataError
from ..evaluation import Predictor
from ..fast.frozen_weights import fast_products
from ..model import Base
from ..model.forward import evaluating
from ..runs.hub import local_adapter
from ..runs.loading import open_base
from ..runtime.precision import Precision
from ..serialization import read_provenance
from .bank import BASE, AdapterBank
from .classify import Classified


@dataclass(frozen=True)
class ServedBank:
    """Adapters that are ready for rows.

    Args:
        base: with the bank's model in it, and its own head where it has one.
        max_tokens: what each adapter's rows are cut to, as in its training; for `base` the most of these.
    """

    base: Base
    bank: AdapterBank
    max_tokens: Mapping[str, int]


def open_bank(
    folders: Mapping[str, str | Path], *, model: str | None = None, device: torch.device | str = "cpu"
) -> ServedBank:
    """Load the base that the adapters name (or `model`), with a bank of these adapters in it.

    Args:
        folders: by the names that rows will use; as scripts/train.py writes them, or `hub:owner/name`.

    Raises:
        ConfigError: adapters of different bases. AdapterFileError, ModelError: as for `open_adapter`.
    """
    folders = {name: local_adapter(folder) for name, folder in folders.items()}
    notes = {name: _notes(folder) for name, folder in folders.items()}
    bases = {f"{model or each['base']['name']} ({each['base'].get('precision', FULL)})": each for each in notes.values()}
    if len(bases) != 1:
        raise ConfigError(
            f"the adapters are for different bases: {', '.join(sorted(bases))}", remedy="name one that fits all with --model"
        )
    (first,) = bases.values()
    base = open_base(model or first["base"]["name"])
    if first["base"].get("precision") == NF4:
        quantize_base(base.model, heads=first["config"]["head_modules"])
    bank = AdapterBank(base.model.to(device), capacity=len(folders), must_cover=base.newly_initialized)
    for name, folder in folders.items():
        bank.add(name, folder)
    limits = {name: int(each["data"]["max_tokens"]) for name, each in notes.items()}
    return ServedBank(base, bank, {**limits, BASE: max(limits.values())})


def classify_rows(
    served: ServedBank,
    texts: Sequence[str],
    adapters: Sequence[str],
    *,
    precision: Precision,
    batch_tokens: int | None = None,
) -> list[Classified]:
    """Every text with the label that the adapter it names gives it, in the order of the texts.

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
    found: dict[int, Classified] = {}
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
                found[row] = _classified(texts[row], own, served.bank.labels[adapter])
    return [found[row] for row in range(len(texts))]


def _answer(bank: AdapterBank, named: Sequence[str], batch: Batch) -> Tensor:
    """The logits of a batch of rows; `named` are the adapters of all rows."""
    with bank.rows([named[row] for row in batch.rows.tolist()]) as model:
        return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits  # type: ignore[no-any-return]


def _classified(text: str, logits: Tensor, labels: Sequence[str]) -> Classified:
    """The label of one row. Shape: logits (widest,), -inf behind the labels of its adapter."""
    scores = logits.softmax(-1).tolist()
    return Classified(text, labels[int(logits.argmax())], dict(zip(labels, scores, strict=False)))


def _notes(folder: str | Path) -> dict[str, Any]:
    if not Path(folder).is_dir():
        raise AdapterFileError(["no such folder"], where=str(folder), expected="an adapter folder")
    notes = read_provenance(Path(folder))
    data = notes.get("data")
    limit = data.get("max_tokens") if isinstance(data, dict) else None
    if not (notes.get("labels") and notes["base"]["name"] and isinstance(limit, int)):
        raise AdapterFileError(
            ["provenance.json does not name the labels, the base model and the length of its rows"],
            where=str(folder),
            expected="an adapter folder that scripts/train.py wrote",
        )
    return notes
