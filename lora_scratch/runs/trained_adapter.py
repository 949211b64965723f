"""Open an adapter folder that the command train wrote: its base, its labels, its rows."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from ..adapter import NF4, LoRAConfig, quantize_base
from ..data import Splits
from ..errors import AdapterFileError, LoraScratchError
from ..model.base import Base
from ..runtime.ranks import check_same, check_same_tensors
from ..serialization import Provenance, load_adapter, problems_on, read_provenance
from ..tasks import Task
from .hub import local_adapter
from .loading import open_base, open_splits, relabel
from .options import DataOptions

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
        return replace(options, dataset=dataset or options.dataset, limit_eval=limit_eval)

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


def open_adapter(folder: str | Path, *, model: str | None = None, verify_base: bool = True) -> TrainedAdapter:
    """Load the base that the adapter names (or `model`), with the adapter in it.

    Args:
        folder: of the adapter, or `hub:owner/name`, or `hub:owner/name@revision`.

    Raises:
        AdapterFileError: the folder, or its fit to the base. ModelError: the base can't be loaded.
        ConfigError: the adapter is not the same in all processes.
    """
    folder = local_adapter(folder)
    provenance = _provenance(folder, model=model)
    base = open_base_of(provenance, model or provenance.base.name)
    config = load_adapter(base.model, folder, verify_base=verify_base, must_cover=base.newly_initialized)
    base.model.eval()
    check_same(f"the adapter {folder}", json.dumps(provenance.as_json(), sort_keys=True).encode())
    check_same_tensors("the model", base.model.state_dict())
    return TrainedAdapter(base, config, provenance, folder)


def open_rows(saved: TrainedAdapter, *, dataset: str | None = None, limit_eval: int | None = None) -> tuple[Splits, int]:
    """Open the rows of the training, or of `dataset`, with the adapter's label numbers.

    Returns:
        The rows, and the length that they are cut to.

    Raises:
        AdapterFileError: another program wrote the folder. DataError: anything wrong with the rows.
    """
    max_tokens, data = saved.max_tokens, saved.data_options(dataset=dataset, limit_eval=limit_eval)
    seed = saved.recorded("training.seed", saved.provenance.training.seed, int)
    saved.recorded("data.dataset", data.dataset, str)
    return relabel(open_splits(data, seed=seed), saved.labels), max_tokens


def problems_with_base(folder: Path, *, model: str) -> list[str]:
    """Return every reason why the adapter does not fit the base `model`, file faults apart."""
    try:
        base = open_base_of(_provenance(folder, model=model), model)
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


def _provenance(folder: Path, *, model: str | None) -> Provenance:
    provenance = read_provenance(folder)
    if not (provenance and provenance.labels and (model or provenance.base.name)):
        raise AdapterFileError(
            ["provenance.json does not name the labels and the base model"],
            where=str(folder),
            expected="an adapter folder that `train` wrote",
            remedy="load folders of other tools with lora_scratch.load_adapter(model, folder)",
        )
    return provenance
