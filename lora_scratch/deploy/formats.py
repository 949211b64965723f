"""Write a plain model as a transformers folder, a torch.export program, or ONNX.

The folder also holds the tokenizer and config.json, which has the labels. model.pt2 and model.onnx
read `input_ids` and `attention_mask`, (B, T) int64 with 2 <= T <= the model's positions, for pairs
also `token_type_ids` where the model has them, and return `logits`, (B, C). They need no Python code
of the model.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Encoded
from ..errors import ConfigError, MergeError
from ..model.base import Base
from ..runtime.atomic import write_bytes
from ..runtime.extras import check_extra

FORMATS = ("transformers", "program", "onnx")
FILES = {"program": "model.pt2", "onnx": "model.onnx"}
EXAMPLE, SHAPES = (3, 5), ((1, 2), (2, 9), (5, 3))  # rows and tokens: traced, and compared (reload.py)
LONGEST = 512  # tokens, if the model does not say
INPUTS, TYPES = ("input_ids", "attention_mask"), "token_type_ids"


def check_format(form: str, *, dtype: str) -> None:
    """Check before the work that a form can be written.

    Raises:
        ConfigError: a package is missing, or ONNX in a dtype that its runtime can't run on a CPU.
    """
    if form != "onnx":
        return
    if dtype != "float32":
        fault = f"with --dtype {dtype}"
        raise ConfigError(fault, where="--format onnx", expected="--dtype float32")
    check_extra("onnx", flag="--format onnx")


def write_plain(base: Base, folder: Path, *, form: str, pairs: bool = False) -> None:
    """Write the model and its tokenizer into an existing folder, in one of FORMATS.

    Args:
        pairs: whether the rows are pairs of texts, which some models tell apart by `token_type_ids`.

    Raises:
        MergeError: the model can't be traced.
    """
    base.tokenizer.save_pretrained(folder)
    if form == "transformers":
        base.model.save_pretrained(folder)
        return
    base.model.config.save_pretrained(folder)
    model = _Logits(base.model, input_names(base, pairs=pairs)).cpu().eval()
    path = folder / FILES[form]
    with _quiet():
        (_program if form == "program" else _onnx)(model, path, most_tokens(base))


def input_names(base: Base, *, pairs: bool) -> tuple[str, ...]:
    """Return the names of the inputs of model.pt2 and model.onnx, in their order."""
    return (*INPUTS, TYPES) if pairs and TYPES in base.tokenizer.model_input_names else INPUTS


class _Logits(nn.Module):
    def __init__(self, model: Any, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the logits. Shape: (B, T) each -> (B, C)."""
        logits: Tensor = self.model(**dict(zip(self.inputs, tensors, strict=True))).logits
        return logits


def _program(model: _Logits, path: Path, longest: int) -> None:
    content = io.BytesIO()  # with a path, torch ends the process or raises an error of its own if the disk is full
    torch.export.save(_trace(model, longest), content)
    write_bytes(path, content.getvalue())


def _onnx(model: _Logits, path: Path, longest: int) -> None:
    names: Any = {"input_names": list(model.inputs), "output_names": ["logits"]}
    program: Any = torch.onnx.export(_trace(model, longest), dynamo=True, verbose=False, **names)
    program.save(path)


def _trace(model: _Logits, longest: int) -> torch.export.ExportedProgram:
    free = {0: torch.export.Dim("rows", min=1), 1: torch.export.Dim("tokens", min=2, max=longest)}
    example = _tokens(*EXAMPLE, vocabulary=8)[: len(model.inputs)]
    try:
        return torch.export.export(model, example, dynamic_shapes=((free,) * len(example),))
    except Exception as error:  # torch.export has no error of its own
        reason = str(error).strip().splitlines()[0]
        fault = f"{type(model.model).__name__} can't be traced ({reason})"
        raise MergeError(fault, where="--format", remedy="--format transformers") from error


def made_up_batches(base: Base, like: Encoded) -> list[dict[str, Tensor]]:
    """Return batches of other shapes than the traced one, with the inputs that the rows of `like` have."""
    names = input_names(base, pairs=like.token_types is not None)
    vocabulary = base.model.config.vocab_size
    return [dict(zip(names, _tokens(*shape, vocabulary=vocabulary), strict=False)) for shape in SHAPES]


def _tokens(rows: int, tokens: int, *, vocabulary: int) -> tuple[Tensor, ...]:
    """Return some token ids, a mask in which every other row has a token of padding, and token types."""
    ids = torch.arange(rows * tokens).reshape(rows, tokens) * 7 % vocabulary
    mask = torch.ones_like(ids)
    mask[1::2, -1] = 0
    types = (torch.arange(tokens) >= tokens // 2).long().expand(rows, tokens) * mask
    return ids, mask, types


def most_tokens(base: Base) -> int:
    """Return the most tokens that both tokenizer and positions allow."""
    positions = getattr(base.model.config, "max_position_embeddings", None) or LONGEST
    return int(min(base.tokenizer.model_max_length, positions))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters: they report that torchvision is missing, and their own renamings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
