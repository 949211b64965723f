"""Load a pretrained classifier, with a fresh head where its own head is for other labels.

Weights are read from safetensors alone and `trust_remote_code` stays off: loading a model never runs code that came with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers  # names it reads from the module are loaded when they are used: the models among them take seconds
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
        name: the folder or hub name it came from.
        fresh: names of the parameters that did not come from there and have seeded random values: the new head.
    """

    model: Any
    tokenizer: Any
    name: str
    newly_initialized: tuple[str, ...]

    @property
    def pad_token_id(self) -> int:
        """The token that fills a batch up to its longest row."""
        return int(self.tokenizer.pad_token_id or 0)


def load_base(name: str, *, labels: Sequence[str] | None = None, seed: int = 0, dtype: torch.dtype = torch.float32) -> Base:
    """The model `name` (hub or folder) with one output per label (its own labels if None), on the CPU, in evaluation mode.

    The head's output layer is kept if the model has these very labels, else it is drawn anew: normal with the model's own
    initializer_range, bias zero, from a generator seeded by (seed, parameter name).

    Raises:
        ModelError: not a folder with a model and not to be had from the hub, or no sequence classifier.
    """
    if not name:
        raise ModelError("no model is named", where="--model", expected="a folder or a name on the hub")
    if fault := path_fault(name, or_hub=True):
        raise ModelError(fault.found, where=shown_path(name), expected=fault.expected, remedy="pass another --model")
    with _quiet():
        try:
            trained_for = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False).id2label
            names = trained_for if labels is None else dict(enumerate(labels))
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
        except Exception as error:  # of transformers, tokenizers (plain Exception), safetensors and the hub client alike
            raise _cannot_load(name, error) from error
    fresh = {str(key) for key in info["missing_keys"]} | {str(entry[0]) for entry in info["mismatched_keys"]}
    if trained_for != names:
        fresh |= _parameters_of(model, output_layer(model))
    _draw(model, fresh, seed)
    return Base(model.eval(), tokenizer, name, tuple(sorted(fresh)))


def output_layer(model: Any) -> str | None:
    """The name of the head's last linear layer that has an output for each of the model's labels; None if there is none."""
    linears = [
        f"{head}.{inner}" if inner else head
        for head in default_heads(model)
        for inner, module in model.get_submodule(head).named_modules()
        if isinstance(module, nn.Linear) and module.out_features == model.config.num_labels
    ]
    return linears[-1] if linears else None


def _parameters_of(model: nn.Module, name: str | None) -> set[str]:
    return set() if name is None else {f"{name}.{key}" for key, _ in model.get_submodule(name).named_parameters()}


@torch.no_grad()
def _draw(model: Any, fresh: set[str], seed: int) -> None:
    for name in fresh:
        owner, _, kind = name.rpartition(".")
        parameter = model.get_parameter(name)
        if not isinstance(model.get_submodule(owner), nn.Linear):
            continue  # a norm or an embedding: transformers has given it its standard first value
        if kind == "bias":
            parameter.zero_()
        else:
            drawn = torch.empty(parameter.shape).normal_(
                std=model.config.initializer_range, generator=named_generator(seed, name)
            )
            parameter.copy_(drawn)


class _quiet:
    """transformers prints a table of fresh tensors; `Base.newly_initialized` says the same, and the scripts print it in one line."""

    def __enter__(self) -> None:
        self.verbosity = transformers_logging.get_verbosity()
        self.progress = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *exception: object) -> None:
        transformers_logging.set_verbosity(self.verbosity)
        if self.progress:
            transformers_logging.enable_progress_bar()


def _cannot_load(name: str, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if os.path.exists(name):
        return ModelError(
            f"no sequence classifier could be loaded ({reason})",
            where=name,
            expected="a folder with config.json, model.safetensors and tokenizer files",
        )
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        return ModelError(
            "no such folder", where=name, expected="a folder, or owner/name on the hub", remedy="pass --model FOLDER"
        )
    return ModelError(
        "the model is no local folder and could not be fetched from the hub",
        where=name,
        remedy=f"pass --model FOLDER with a model saved by save_pretrained, or connect to the hub ({reason})",
    )
