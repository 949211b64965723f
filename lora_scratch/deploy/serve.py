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
from ..model.base import Base
from ..model.forward import classify, evaluating
from ..runs.hub import local_adapter
from ..runs.loading import open_base
from ..runtime.precision import Precision
from ..serialization import Provenance, read_provenance
from ..tasks import Task, task_of
from .bank import BASE, AdapterBank
from .classify import Classified


@dataclass(frozen=True)
class ServedBank:
    """A bank of adapters with its base.

    Args:
        max_tokens: the length of an adapter's rows, as in its training; for `base` the largest.
        tasks: what each adapter predicts, and the base with its own head.
    """

    base: Base
    bank: AdapterBank
    max_tokens: Mapping[str, int]
    tasks: Mapping[str, Task]


def open_bank(
    folders: Mapping[str, str | Path],
    *,
    model: str | None = None,
    device: torch.device | str = "cpu",
) -> ServedBank:
    """Load the base that the adapters name (or `model`), with a bank of these adapters in it.

    Args:
        folders: by adapter name; folders that the command train wrote, or `hub:owner/name`.

    Raises:
        ConfigError: adapters of different bases.
        AdapterFileError, ModelError: as for `open_adapter`.
    """
    places = {name: local_adapter(folder) for name, folder in folders.items()}
    recorded = {name: _provenance(folder) for name, folder in places.items()}
    bases = {f"{model or p.base.name} ({p.base.precision})": p for p in recorded.values()}
    if len(bases) != 1:
        fault = f"the adapters are for different bases: {', '.join(sorted(bases))}"
        raise ConfigError(fault, remedy="name one that fits all with --model")
    (first,) = bases.values()
    base = open_base(model or first.base.name)
    if first.base.precision == NF4:
        quantize_base(base.model, heads=first.head_modules)
    plain, new = base.model.to(device), base.newly_initialized
    bank = AdapterBank(plain, capacity=len(places), must_cover=new)
    for name, folder in places.items():
        bank.add(name, folder)
    limits = {name: provenance.data.max_tokens or 0 for name, provenance in recorded.items()}
    tasks = {name: provenance.make_task() for name, provenance in recorded.items()}
    tasks[BASE] = task_of(base.model)
    return ServedBank(base, bank, {**limits, BASE: max(limits.values())}, tasks)


def classify_rows(
    served: ServedBank,
    texts: Sequence[str],
    adapters: Sequence[str],
    *,
    precision: Precision,
    batch_tokens: int | None = None,
) -> list[Classified]:
    """Return every text with its adapter's label, in the order of the texts.

    Raises:
        DataError: a row for `base`, whose head would be random.
    """
    base, bank = served.base, served.bank
    if base.newly_initialized and BASE in adapters:
        random = ", ".join(base.newly_initialized[:2])
        raise DataError(
            f"{base.name} has no head of its own: {random} would be random",
            where=f"a row for {BASE!r}",
            expected=f"one of {', '.join(bank.adapters)}",
        )
    limits = [served.max_tokens[adapter] for adapter in adapters]
    classified: dict[int, Classified] = {}
    predictor = Predictor(base.model, precision, base.pad_token_id, batch_tokens=batch_tokens)
    with evaluating(base.model), fast_products(base.model, precision):
        for limit in sorted(set(limits)):
            rows = [row for row in range(len(texts)) if limits[row] == limit]
            names = [adapters[row] for row in rows]
            contents, no_labels = [texts[row] for row in rows], [0] * len(rows)
            encoded = encode(contents, no_labels, base.tokenizer, max_tokens=limit)
            logits = predictor.map_rows(partial(_classify, bank, names), encoded)
            for row, name, row_logits in zip(rows, names, logits, strict=True):
                classified[row] = _classified(texts[row], row_logits, served.tasks[name])
    return [classified[row] for row in range(len(texts))]


def _classify(bank: AdapterBank, names: Sequence[str], batch: Batch) -> Tensor:
    """Return the logits of a batch; `names` are the adapters of all rows."""
    with bank.rows([names[row] for row in batch.rows.tolist()]) as model:
        return classify(model, batch)


def _classified(text: str, logits: Tensor, task: Task) -> Classified:
    """Return the answer to a row. Shape: logits (widest,), -inf after the adapter's own."""
    return Classified(text, task.answers(logits[None, : len(task.labels)])[0])


def _provenance(folder: Path) -> Provenance:
    provenance = read_provenance(folder)
    complete = provenance and provenance.base.name and provenance.data.max_tokens
    if not (provenance and complete and provenance.labels):
        raise AdapterFileError(
            ["provenance.json does not name the labels, the base model and the length of its rows"],
            where=str(folder),
            expected="an adapter folder that `train` wrote",
        )
    return provenance
