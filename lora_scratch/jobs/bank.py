"""Adapter folders opened side by side over one base, and rows classified by the adapter that each one names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapter import AdapterBank, read_provenance
from ..adapter.bank import BASE
from ..data import Batch, Example
from ..errors import AdapterFileError, ConfigError, DataError
from ..evaluation.predict import evaluating, map_rows
from ..model import Base
from ..runtime.precision import Precision
from .opening import encode_rows, open_base


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
        folders: by the names that rows will use; as scripts/train.py writes them.

    Raises:
        ConfigError: adapters of different bases. AdapterFileError, ModelError: as for `open_adapter`.
    """
    notes = {name: _notes(folder) for name, folder in folders.items()}
    bases = {str(each["base"]["name"]) for each in notes.values()} if model is None else {model}
    if len(bases) != 1:
        raise ConfigError(
            f"the adapters are for different bases: {', '.join(sorted(bases))}", remedy="name one that fits all with --model"
        )
    base = open_base(bases.pop())
    bank = AdapterBank(base.model.to(device), capacity=len(folders), must_cover=base.fresh)
    for name, folder in folders.items():
        bank.add(name, folder)
    limits = {name: int(each["data"]["max_tokens"]) for name, each in notes.items()}
    return ServedBank(base, bank, {**limits, BASE: max(limits.values())})


def classify_rows(
    served: ServedBank, texts: Sequence[str], adapters: Sequence[str], *, precision: Precision, batch_size: int = 64
) -> list[Tensor]:
    """The logits of every row from the adapter it names, one for each of that adapter's labels, in the order of the rows.

    Raises:
        DataError: a row for `base`, whose own head would be random.
    """
    if served.base.fresh and BASE in adapters:
        raise DataError(
            f"{served.base.name} has no head of its own: {', '.join(served.base.fresh[:2])} would be random",
            where=f"a row for {BASE!r}",
            expected=f"one of {', '.join(served.bank.adapters)}",
        )
    limits = [served.max_tokens[adapter] for adapter in adapters]
    found: dict[int, Tensor] = {}
    for limit in sorted(set(limits)):
        rows = [row for row, own in enumerate(limits) if own == limit]
        encoded = encode_rows([Example(texts[row], 0) for row in rows], served.base, max_tokens=limit)

        def logits(batch: Batch, rows: Sequence[int] = rows) -> Tensor:
            with served.bank.rows([adapters[rows[index]] for index in batch.rows.tolist()]) as model:
                return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits  # type: ignore[no-any-return]

        with evaluating(served.base.model):
            parts = map_rows(
                logits, encoded, precision=precision, pad_token_id=served.base.pad_token_id, batch_size=batch_size
            )
        found |= dict(zip(rows, parts, strict=True))
    labels = served.bank.labels
    return [found[row][: len(labels[adapter])] for row, adapter in enumerate(adapters)]


def _notes(folder: str | Path) -> dict[str, Any]:
    if not Path(folder).is_dir():
        raise AdapterFileError(["no such folder"], where=str(folder), expected="an adapter folder")
    notes = read_provenance(Path(folder))
    if not (notes.get("labels") and notes.get("base", {}).get("name") and "max_tokens" in notes.get("data", {})):
        raise AdapterFileError(
            ["provenance.json does not name the labels, the base model and the length of its rows"],
            where=str(folder),
            expected="an adapter folder that scripts/train.py wrote",
        )
    return notes
