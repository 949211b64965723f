"""Open an adapter folder: its base, its labels, its rows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ..adapter import NF4, LoRAConfig, quantize_base
from ..data import Splits
from ..data.examples import rows_digest
from ..errors import AdapterFileError, DataError, LoraScratchError
from ..model.base import Base
from ..runtime.ranks import check_same, check_same_tensors
from ..serialization import Provenance, load_adapter, problems_on, read_provenance
from ..tasks import Task
from .hub import local_adapter
from .loading import DEMO, open_base, open_held_out, open_splits, relabel
from .options import DataOptions
from .resume import recorded_run
from .unrecorded import base_name, check_labels, filled, open_unlabeled_base, tell

Value = TypeVar("Value", str, int)


@dataclass(frozen=True)
class TrainedAdapter:
    """A base with a trained adapter in it, and where the adapter came from."""

    base: Base
    config: LoRAConfig
    provenance: Provenance
    folder: Path = Path()

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names, in the order of the logits."""
        return self.provenance.labels

    @property
    def task(self) -> Task:
        """What is predicted, with what was fitted on validation rows."""
        return self.provenance.make_task()

    @property
    def max_tokens(self) -> int:
        """The length that rows are cut to. Raises AdapterFileError where it is not recorded."""
        return self.recorded("data.max_tokens", self.provenance.data.max_tokens, int)

    @property
    def precision(self) -> str:
        """The precision of the training. Raises AdapterFileError where it is not recorded."""
        return self.recorded("training.precision", self.provenance.training.precision, str)

    def data_options(self, *, dataset: str | None = None, limit_eval: int | None = None) -> DataOptions:
        """Return the options of the training's rows, or of `dataset` read in the same way."""
        known = {f.name: getattr(self.provenance.data, f.name, None) for f in fields(DataOptions)}
        options = DataOptions(**{key: value for key, value in known.items() if value is not None})
        task = self.provenance.task
        return replace(options, dataset=dataset or options.dataset, task=task, limit_eval=limit_eval)

    def recorded(self, name: str, value: Value | None, kind: type[Value]) -> Value:
        """Return `value`, an entry of provenance.json.

        Raises:
            AdapterFileError: it is None, because another program wrote the folder.
        """
        if value is None:
            raise AdapterFileError(
                [f"{name} is None, which is no {kind.__name__}"],
                where=str(self.folder / "provenance.json"),
                expected="an adapter folder that `train` wrote",
            )
        return value


def open_adapter(
    folder: str | Path, *, model: str | None = None, labels: Sequence[str] | None = None, verify_base: bool = True
) -> TrainedAdapter:
    """Load the base that the adapter names (or `model`), with the adapter in it.

    A folder of PEFT's is opened too; unrecorded.py fills in what it does not record.

    Args:
        folder: of the adapter, or `hub:owner/name`, or `hub:owner/name@revision`.
        labels: the label names, in the order of the outputs, for a folder that does not record them.

    Raises:
        AdapterFileError: the folder, or its fit to the base. ModelError: the base can't be loaded.
        ConfigError: other labels than the recorded ones, or not the same adapter in all processes.
    """
    folder = local_adapter(folder)
    recorded = read_provenance(folder) or Provenance()
    base = _open_base(folder, recorded, model=model, labels=labels)
    provenance = filled(recorded, base)
    tell(folder, recorded, provenance, given=labels is not None)
    config = load_adapter(base.model, folder, verify_base=verify_base, must_cover=base.newly_initialized)
    base.model.eval()
    check_same(f"the adapter {folder}", json.dumps(provenance.as_json(), sort_keys=True).encode())
    check_same_tensors("the model", base.model.state_dict())
    return TrainedAdapter(base, config, provenance, folder)


def open_rows(
    saved: TrainedAdapter,
    *,
    dataset: str | None = None,
    limit_eval: int | None = None,
    held_out: bool = False,
    columns: Mapping[str, Any] | None = None,
) -> tuple[Splits, int]:
    """Open the rows of the training, or of `dataset`, with the adapter's label numbers.

    Args:
        held_out: `dataset` is there to be measured: of a file all rows are the test rows, of a folder its own.
            The data set of the training is split as in the training.
        columns: of `dataset`, by the flags of train, where they are not those of the training.

    Returns:
        The rows, and the length that they are cut to.

    Raises:
        AdapterFileError: another program wrote the folder. DataError: anything wrong with the rows.
    """
    max_tokens = saved.max_tokens
    data = replace(saved.data_options(dataset=dataset, limit_eval=limit_eval), **(columns or {}))
    if held_out and dataset is not None and not _is_training_data(dataset, saved):
        rows = open_held_out(data, labels=saved.labels)
        _refuse_training_rows(rows, data, saved)
        return rows, max_tokens
    seed = saved.recorded("training.seed", saved.provenance.training.seed, int)
    if data.dataset is None:
        fault, remedy = "it does not record the rows of its training", "name rows with --dataset"
        raise AdapterFileError([fault], where=str(saved.folder), remedy=remedy)
    return relabel(open_splits(data, seed=seed), saved.labels), max_tokens


def _is_training_data(dataset: str, saved: TrainedAdapter) -> bool:
    """Return whether the name is that of the data set of the training, for which the training chose the test rows."""
    known = {name for name in (saved.provenance.data.dataset, saved.provenance.data.source, DEMO) if name}
    return dataset in known or os.path.realpath(dataset) in map(os.path.realpath, known)


def _refuse_training_rows(rows: Splits, data: DataOptions, saved: TrainedAdapter) -> None:
    """Raise DataError if `rows` are those of the training under another name, as far as its run still says.

    Either all of them, or a file of which the training would take the same training rows.
    """
    digest = _digest_of_training_rows(saved.folder.parent)
    split = _split(data, saved) if digest and os.path.isfile(str(data.dataset)) else {}
    if digest and digest in (rows_digest(rows.test, rows.labels), split.get("train")):
        remedy = f"name --dataset {saved.provenance.data.source}, which keeps its test rows apart, or other rows"
        found, expected = "holds the rows that the adapter was trained with", "rows that it has not seen"
        raise DataError(found, where=f"--dataset {data.dataset}", expected=expected, remedy=remedy)


def _digest_of_training_rows(run: Path) -> str | None:
    try:
        recorded = recorded_run(run) or {}
    except LoraScratchError:  # the config.json of something else
        return None
    digest: str | None = recorded.get("data", {}).get("digests", {}).get("train")
    return digest


def _split(data: DataOptions, saved: TrainedAdapter) -> dict[str, str]:
    try:
        return relabel(open_splits(data, seed=saved.provenance.training.seed or 0), saved.labels).digests
    except LoraScratchError:  # too few rows to be split, or other labels
        return {}


def problems_with_base(folder: Path, *, model: str, labels: Sequence[str] | None = None) -> list[str]:
    """Return every reason why the adapter does not fit the base `model`, file faults apart."""
    try:
        base = _open_base(folder, read_provenance(folder) or Provenance(), model=model, labels=labels)
        return problems_on(base.model, folder, must_cover=base.newly_initialized)
    except LoraScratchError as error:
        return list(error.problems) if isinstance(error, AdapterFileError) else [str(error)]


def open_base_of(provenance: Provenance, name: str) -> Base:
    """Open the base `name` as the adapter was trained on it: with its labels, seed and precision.

    Raises:
        ModelError: it can't be loaded.
    """
    base = open_base(name, labels=provenance.labels, task=provenance.task, seed=provenance.seed)
    if provenance.base.precision == NF4:
        quantize_base(base.model, heads=provenance.head_modules)
    return base


def _open_base(folder: Path, recorded: Provenance, *, model: str | None, labels: Sequence[str] | None = None) -> Base:
    check_labels(recorded.labels, labels)
    name = base_name(folder, recorded, model=model)
    if recorded.labels:
        return open_base_of(recorded, name)
    return open_unlabeled_base(folder, recorded, name, labels)
