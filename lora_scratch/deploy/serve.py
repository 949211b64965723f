"""Open several adapter folders over one base. Classify each row by the adapter that it names."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import NF4, quantize_base
from ..data import Batch
from ..errors import AdapterFileError, ConfigError, DataError
from ..evaluation import Predictor
from ..fast.frozen_weights import fast_products
from ..model.base import Base
from ..model.forward import classify, evaluating
from ..runs.hub import local_adapter
from ..runs.loading import open_base
from ..runs.sides import check_sides
from ..runtime.precision import Precision
from ..serialization import DataRecord, Provenance, read_provenance
from ..tasks import Task, task_of
from .answers import finite_answers
from .bank import BASE, AdapterBank
from .classify import Classified, Pair, encode_texts

UNRECORDED = "fp32"  # the precision of an adapter that does not say its own


@dataclass(frozen=True)
class ServedBank:
    """A bank of adapters with its base.

    Args:
        max_tokens: the length of an adapter's rows, as in its training; for `base` the largest.
        tasks: what each adapter predicts, and the base with its own head.
        data: the rows that each adapter was trained with, which tell whether it takes pairs.
        precisions: the names of the precisions that the adapters were trained in.
    """

    base: Base
    bank: AdapterBank
    max_tokens: Mapping[str, int]
    tasks: Mapping[str, Task]
    data: Mapping[str, DataRecord]
    precisions: tuple[str, ...]

    @property
    def precision(self) -> str:
        """The precision that all adapters were trained in. Raises ConfigError if it is not one."""
        if len(self.precisions) != 1:
            fault = f"the adapters were trained in {' and in '.join(self.precisions)}"
            raise ConfigError(fault, remedy="choose one with --precision")
        return self.precisions[0]


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
    data = {BASE: DataRecord(), **{name: provenance.data for name, provenance in recorded.items()}}
    precisions = sorted({provenance.training.precision or UNRECORDED for provenance in recorded.values()})
    return ServedBank(base, bank, {**limits, BASE: max(limits.values())}, tasks, data, tuple(precisions))


def classify_rows(
    served: ServedBank,
    texts: Sequence[str | Pair],
    adapters: Sequence[str],
    *,
    precision: Precision,
    batch_tokens: int | None = None,
) -> list[Classified]:
    """Return every text, or pair of texts, with its adapter's answer, in the order of the texts.

    Raises:
        DataError: a row for `base`, whose head would be random; a single text for an adapter of pairs, or
            the other way round; logits that are not finite.
    """
    base, bank = served.base, served.bank
    for text, adapter in zip(texts, adapters, strict=True):
        check_sides(served.data[adapter], pairs=isinstance(text, tuple), where=f"a row for {adapter!r}")
    if base.newly_initialized and BASE in adapters:
        random = ", ".join(base.newly_initialized[:2])
        raise DataError(
            f"{base.name} has no head of its own: {random} would be random",
            where=f"a row for {BASE!r}",
            expected=f"one of {', '.join(bank.adapters)}",
        )
    # rows are encoded together if they have one length and are all pairs or all single texts
    kinds = [(served.max_tokens[adapter], isinstance(text, tuple)) for text, adapter in zip(texts, adapters, strict=True)]
    classified: dict[int, Classified] = {}
    predictor = Predictor(base.model, precision, base.pad_token_id, batch_tokens=batch_tokens)
    with evaluating(base.model), fast_products(base.model, predictor.precision):
        for kind in sorted(set(kinds)):
            rows = [row for row in range(len(texts)) if kinds[row] == kind]
            names = [adapters[row] for row in rows]
            encoded = encode_texts([texts[row] for row in rows], base.tokenizer, max_tokens=kind[0])
            logits = predictor.map_rows(partial(_classify, bank, names), encoded)
            for row, name, row_logits in zip(rows, names, logits, strict=True):
                classified[row] = _classified(texts[row], row_logits, served.tasks[name])
    return [classified[row] for row in range(len(texts))]


def _classify(bank: AdapterBank, names: Sequence[str], batch: Batch) -> Tensor:
    """Return the logits of a batch; `names` are the adapters of all rows."""
    with bank.rows([names[row] for row in batch.rows.tolist()]) as model:
        return classify(model, batch)


def _classified(text: str | Pair, logits: Tensor, task: Task) -> Classified:
    """Return the answer to a row. Shape: logits (widest,), -inf after the adapter's own."""
    (answer,) = finite_answers(task, logits[None, : len(task.labels)])
    first, second = text if isinstance(text, tuple) else (text, None)
    if isinstance(answer, DataError):
        where = f"the text {first[:60]!r}"
        raise DataError(answer.found, where=where, expected=answer.expected, remedy=answer.remedy)
    return Classified(first, answer, second)


def _provenance(folder: Path) -> Provenance:
    provenance = read_provenance(folder)
    complete = provenance and provenance.base.name and provenance.data.max_tokens
    if not (provenance and complete and provenance.labels):
        raise AdapterFileError(
            ["provenance.json does not name the labels, the base model and the length of its rows"],
            where=str(folder),
            expected="an adapter folder that `train` wrote",
            remedy=f"classify with this adapter alone: predict {shlex.quote(str(folder))} --labels NAME ... --file FILE",
        )
    return provenance
