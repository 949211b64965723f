"""Fill in what an adapter folder does not record: PEFT's folders, and those of a training loop of one's own.

`train` records the base, the labels, the length of the rows and the precision. PEFT records the base
alone. The labels then come from `--labels`, or from the base's config; the rest gets a default. A line
on standard error says what was filled in.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..adapter import NF4, quantize_base
from ..errors import AdapterFileError, ConfigError, printable
from ..model.base import Base, output_layer
from ..runtime.distributed import is_main
from ..serialization import Provenance
from ..serialization.adapter_folder import read_base_name, read_unchecked_tensors
from ..serialization.peft_format import PREFIX
from ..tasks import REGRESSION, SINGLE_LABEL, task_of
from .loading import open_base

LONGEST_ROW = 512  # tokens: what the encoders of most families have positions for
PRECISION = "fp32"  # as PEFT leaves it


def base_name(folder: Path, recorded: Provenance, *, model: str | None) -> str:
    """Return the base: `model`, or the one that provenance.json or adapter_config.json names.

    A folder of the machine of the training is of no use elsewhere: then the pushed adapter_config.json has the hub's name.

    Raises:
        AdapterFileError: no one names it.
    """
    name, others = model or recorded.base.name, read_base_name(folder)
    if not model and others and not os.path.exists(name):
        name = others
    if not name:
        fault, remedy = "adapter_config.json does not name the base model", "name it with --model"
        raise AdapterFileError([fault], where=str(folder), remedy=remedy)
    return name


def check_labels(recorded: Sequence[str], labels: Sequence[str] | None) -> None:
    """Check `--labels`: different names, and the recorded ones if there are any.

    Raises:
        ConfigError: otherwise.
    """
    if labels is None:
        return
    if len(set(labels)) < len(labels):
        raise ConfigError(f"found {' '.join(labels)}", where="--labels", expected="different names")
    if recorded and tuple(labels) != tuple(recorded):
        fault, expected = f"found {' '.join(labels)}", f"the adapter's own: {' '.join(recorded)}"
        raise ConfigError(fault, where="--labels", expected=expected, remedy="leave the flag out")


def open_unlabeled_base(folder: Path, recorded: Provenance, name: str, labels: Sequence[str] | None) -> Base:
    """Open the base of a folder that records no labels; its config gets the labels.

    A head in the base stays, whatever the labels are called: the adapter can be for it.

    Raises:
        AdapterFileError: as many labels as the adapter's head has outputs are not known.
        ModelError: the base can't be loaded.
    """
    base = open_base(name, seed=recorded.seed)
    own = task_of(base.model).labels
    outputs = _outputs(folder, base) or len(own)
    names = tuple(own if labels is None else labels)
    if len(names) != outputs:
        source = "the base's config names" if labels is None else "--labels names"
        fault = f"its head has {outputs} outputs, and {source} {len(names)}: {', '.join(names[:8])}"
        remedy = f"pass the {outputs} labels, in the order of the head's outputs, with --labels"
        raise AdapterFileError([fault], where=str(folder), remedy=remedy)
    if len(names) != len(own):
        base = open_base(name, labels=names, task=REGRESSION if outputs == 1 else SINGLE_LABEL, seed=recorded.seed)
    config = base.model.config
    config.id2label = dict(enumerate(names))
    config.label2id = {label: index for index, label in enumerate(names)}
    if recorded.base.precision == NF4:
        quantize_base(base.model, heads=recorded.head_modules)
    return base


def filled(recorded: Provenance, base: Base) -> Provenance:
    """Return the provenance with what is not recorded taken from the base, or set to its default.

    Labels that were not recorded are in `document` too, so that adapters made from this one have them.
    """
    task, longest = task_of(base.model), min(LONGEST_ROW, base.tokenizer.model_max_length)
    data, training, document = recorded.data, recorded.training, recorded.document
    if not recorded.labels:
        document = {**document, "labels": list(task.labels), "task": task.name}
    return replace(
        recorded,
        labels=recorded.labels or tuple(task.labels),
        task=recorded.task if recorded.labels else task.name,
        document=document,
        base=replace(recorded.base, name=recorded.base.name or base.name),
        data=replace(data, max_tokens=longest if data.max_tokens is None else data.max_tokens),
        training=replace(
            training,
            precision=training.precision or PRECISION,
            seed=0 if training.seed is None else training.seed,
        ),
    )


def tell(folder: Path, recorded: Provenance, used: Provenance, *, given: bool) -> None:
    """Write one line to standard error that says what was filled in, if anything was."""
    source = "of --labels" if given else "of the base's config"
    clauses = {
        f"the labels {source} ({', '.join(used.labels)}), task {used.task}": recorded.labels,
        f"at most {used.data.max_tokens} tokens a text": recorded.data.max_tokens,
        f"precision {used.training.precision}": recorded.training.precision,
    }
    chosen = [clause for clause, value in clauses.items() if not value]
    if chosen and is_main():
        print(
            printable(f"{folder} does not record all settings of its training; used: {'; '.join(chosen)}"), file=sys.stderr
        )


def _outputs(folder: Path, base: Base) -> int | None:
    """Return the number of outputs of the head in the file, or None if it holds no head."""
    head = output_layer(base.model)
    weight = read_unchecked_tensors(folder).get(f"{PREFIX}{head}.weight")
    return None if weight is None else weight.shape[0]
