"""Load a pretrained classifier for a task. If its head is for another one, the head starts new.

Weights are read from safetensors only, and `trust_remote_code` is off: no code of the model runs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers  # only as a module: importing its model classes by name takes seconds
from torch import nn
from transformers.utils import logging as transformers_logging

from ..data.labels import SINGLE_LABEL
from ..errors import ModelError, printable
from ..runtime.paths import path_fault, shown_path
from ..runtime.seeds import named_generator
from ..tasks.registry import TASKS, task_name
from .families import default_heads
from .foreign import check_attention, check_no_adapter, check_vocabulary, check_weights
from .forward import need_equal_lengths
from .own_head import head_order, own_labels


@dataclass(frozen=True)
class Base:
    """A pretrained classifier and its tokenizer.

    Args:
        name: the folder or hub name that it was loaded from.
        newly_initialized: the parameters with seeded random values: the new head.
        notes: what was decided on loading, a line each; the commands print them.
        unused: the layers outside the head that have no effect on the logits (checks.py).
    """

    model: Any
    tokenizer: Any
    name: str
    newly_initialized: tuple[str, ...]
    notes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def pad_token_id(self) -> int:
        """The token that fills a row of a batch up to the longest one."""
        return int(self.tokenizer.pad_token_id or 0)

    @property
    def equal_lengths(self) -> bool:
        """Whether evaluation may only batch rows of one length (padding.py)."""
        return need_equal_lengths(self.model)


@torch.inference_mode(False)  # its weights can be trained, also where the caller computes without gradients
def load_base(
    name: str,
    *,
    labels: Sequence[str] | None = None,
    task: str | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Base:
    """Load the model `name` (a folder or on the hub) on the CPU, in evaluation mode.

    Its own head is kept if it is of this task and its labels are these (own_head.py). Otherwise its
    output layer is drawn again: the weight from a normal distribution with the model's
    `initializer_range`, seeded by (seed, parameter name); bias zero.

    Args:
        labels: the label names, in the order of the outputs; the model's own if None.
        task: `single_label`, `multi_label` or `regression`. If None, the model's own without
            `labels`, and `single_label` with them.

    Raises:
        ModelError: no such model in the folder or on the hub, or no sequence classifier.
    """
    _check_name(name)
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
            check_attention(name, config)
            task = task or (task_name(config) if labels is None else SINGLE_LABEL)
            names = own_labels(config) if labels is None else tuple(labels)
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            check_vocabulary(name, tokenizer)
            model, info = _load_model(name, names, task, dtype)
    except ModelError:
        raise
    except Exception as error:  # transformers, tokenizers, safetensors and the hub raise many types
        raise _cannot_load(name, error) from error
    check_no_adapter(name, model)
    absent = {str(key) for key in info["missing_keys"]}
    new, notes = _fit_head(model, config, names, task, absent=absent)
    new |= absent | {str(entry[0]) for entry in info["mismatched_keys"]}
    _initialize(model, new, seed)
    check_weights(name, model)
    return Base(model.eval(), tokenizer, name, tuple(sorted(new)), notes)


def _check_name(name: str) -> None:
    if not name:
        expected = "a folder or a name on the hub"
        raise ModelError("no model is named", where="--model", expected=expected)
    if fault := path_fault(name, or_hub=True):
        where, remedy = shown_path(name), "pass another --model"
        raise ModelError(fault.found, where=where, expected=fault.expected, remedy=remedy)


def _load_model(name: str, labels: Sequence[str], task: str, dtype: torch.dtype) -> tuple[Any, Any]:
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        name,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type=TASKS[task].problem_type,
        dtype=dtype,
        ignore_mismatched_sizes=True,
        use_safetensors=True,
        output_loading_info=True,
        trust_remote_code=False,  # None would ask on the terminal
    )
    for module in model.modules():  # a part's rows would have to be a multiple of it; the numbers are the same without
        if hasattr(module, "chunk_size_feed_forward"):
            module.chunk_size_feed_forward = 0
    return model, info


def _fit_head(
    model: Any, config: Any, labels: Sequence[str], task: str, *, absent: set[str]
) -> tuple[set[str], tuple[str, ...]]:
    """Put the outputs of the base's own head in the order of `labels`, if it is for them.

    Returns:
        The parameters of the output layer that must be drawn again, and what to tell the user.
    """
    head = output_layer(model)
    if head is None:
        return set(), ()
    own = own_labels(config)
    parameters = {f"{head}.{key}" for key, _ in model.get_submodule(head).named_parameters()}
    order = head_order(own, labels) if task == task_name(config) else None
    shown = f"its head is for {_listed(own)} ({task_name(config)})"
    if order is None:
        note = f"{shown}; the head for {_listed(labels)} ({task}) starts new"
        return parameters, () if parameters & absent else (note,)
    _reorder(model.get_submodule(head), order)
    kept = own != tuple(labels) and not parameters & absent
    return set(), (f"{shown}; it is kept for {_listed(labels)}",) if kept else ()


def _listed(labels: Sequence[str], limit: int = 6) -> str:
    more = f" and {len(labels) - limit} more" if len(labels) > limit else ""
    return printable(", ".join(labels[:limit]) + more)


@torch.no_grad()
def _reorder(layer: nn.Linear, order: Sequence[int]) -> None:
    """Put the outputs of a linear layer in this order."""
    for parameter in layer.parameters():
        parameter.copy_(parameter[list(order)].clone())


def output_layer(model: Any) -> str | None:
    """Return the name of the head's last linear layer with one output per label, or None."""
    linears = [
        f"{head}.{inner}" if inner else head
        for head in default_heads(model)
        for inner, module in model.get_submodule(head).named_modules()
        if isinstance(module, nn.Linear) and module.out_features == model.config.num_labels
    ]
    return linears[-1] if linears else None


@torch.no_grad()
def _initialize(model: Any, names: Iterable[str], seed: int) -> None:
    for name in names:
        owner, _, kind = name.rpartition(".")
        if not isinstance(model.get_submodule(owner), nn.Linear):
            continue  # a norm or an embedding has transformers' standard values
        parameter = model.get_parameter(name)
        if kind == "bias":
            parameter.zero_()
        else:
            std, generator = _head_std(model.config), named_generator(seed, name)
            parameter.copy_(torch.empty(parameter.shape).normal_(std=std, generator=generator))


def _head_std(config: Any) -> float:
    """Return the model's `initializer_range`; BART and XLM call it `init_std`, T5 has none.

    Raises:
        ModelError: it is no standard deviation.
    """
    for name in ("initializer_range", "init_std"):
        if isinstance(std := getattr(config, name, None), float):
            if not 0 <= std < math.inf:
                raise ModelError(f"{name} is {std}", where="config.json of the base", expected="a number from 0")
            return std
    return 0.02  # BERT's, which most families have


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' table of new tensors: the commands print `newly_initialized`."""
    verbosity = transformers_logging.get_verbosity()
    progress_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if progress_bar:
            transformers_logging.enable_progress_bar()


def _cannot_load(name: str, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if os.path.exists(name):
        fault = f"no sequence classifier could be loaded ({reason})"
        expected = "a folder with config.json, model.safetensors and tokenizer files"
        return ModelError(fault, where=name, expected=expected)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        expected, remedy = "a folder, or owner/name on the hub", "pass --model FOLDER"
        return ModelError("no such folder", where=name, expected=expected, remedy=remedy)
    fault = "the model is no local folder and could not be fetched from the hub"
    saved = "pass --model FOLDER with a model saved by save_pretrained"
    return ModelError(fault, where=name, remedy=f"{saved}, or connect to the hub ({reason})")
