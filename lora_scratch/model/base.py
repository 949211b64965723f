"""Load a pretrained classifier. If its labels are other ones, its output layer starts new.

Weights are read from safetensors only, and `trust_remote_code` is off: no code of the model runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers  # only as a module: importing its model classes by name takes seconds
from torch import nn
from transformers.utils import logging as transformers_logging

from ..errors import ModelError
from ..runtime.paths import path_fault, shown_path
from ..runtime.seeds import named_generator
from .families import default_heads


@dataclass(frozen=True)
class Base:
    """A pretrained classifier and its tokenizer.

    Args:
        name: the folder or hub name that it was loaded from.
        newly_initialized: the parameters with seeded random values: the new head.
    """

    model: Any
    tokenizer: Any
    name: str
    newly_initialized: tuple[str, ...]

    @property
    def pad_token_id(self) -> int:
        """The token that fills a row of a batch up to the longest one."""
        return int(self.tokenizer.pad_token_id or 0)


def load_base(
    name: str,
    *,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Base:
    """Load the model `name` (a folder or on the hub) on the CPU, in evaluation mode.

    If its labels are not these, its output layer is drawn again: the weight from a normal
    distribution with the model's `initializer_range`, seeded by (seed, parameter name); bias zero.

    Raises:
        ModelError: no such model in the folder or on the hub, or no sequence classifier.
    """
    if not name:
        expected = "a folder or a name on the hub"
        raise ModelError("no model is named", where="--model", expected=expected)
    if fault := path_fault(name, or_hub=True):
        where, remedy = shown_path(name), "pass another --model"
        raise ModelError(fault.found, where=where, expected=fault.expected, remedy=remedy)
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
            names = config.id2label if labels is None else dict(enumerate(labels))
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
                name,
                num_labels=len(names),
                id2label=names,
                label2id={label: index for index, label in names.items()},
                dtype=dtype,
                ignore_mismatched_sizes=True,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,  # None would ask on the terminal
            )
    except Exception as error:  # transformers, tokenizers, safetensors and the hub raise many types
        raise _cannot_load(name, error) from error
    new = {str(key) for key in info["missing_keys"]}
    new |= {str(entry[0]) for entry in info["mismatched_keys"]}
    if config.id2label != names and (head := output_layer(model)):
        new |= {f"{head}.{key}" for key, _ in model.get_submodule(head).named_parameters()}
    _initialize(model, new, seed)
    return Base(model.eval(), tokenizer, name, tuple(sorted(new)))


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
            std, generator = model.config.initializer_range, named_generator(seed, name)
            parameter.copy_(torch.empty(parameter.shape).normal_(std=std, generator=generator))


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
