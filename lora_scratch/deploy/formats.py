"""Write a plain model as a transformers folder, a torch.export program, or ONNX.

The folder also holds the tokenizer and config.json, which has the labels. model.pt2 and model.onnx
read `input_ids` and `attention_mask`, (B, T) int64 with 2 <= T <= the model's positions, for pairs
also `token_type_ids` where the model has them, and return `logits`, (B, C). They need no Python code
of the model.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, MergeError
from ..model.base import Base
from ..runtime.extras import check_extra
from ..testing import relative_error

FORMATS = ("transformers", "program", "onnx")
FILES = {"program": "model.pt2", "onnx": "model.onnx"}
EXAMPLE, SHAPES = (3, 5), ((1, 2), (2, 9), (5, 3))  # rows and tokens: traced, and compared
LONGEST = 512  # tokens, if the model does not say
INPUTS, TYPES = ("input_ids", "attention_mask"), "token_type_ids"
Run = Callable[..., Tensor]


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


def write_plain(base: Base, folder: Path, *, form: str, tolerance: float, pairs: bool = False) -> None:
    """Write the model and its tokenizer into an existing folder, in one of FORMATS.

    Args:
        pairs: whether the rows are pairs of texts, which some models tell apart by `token_type_ids`.

    Raises:
        MergeError: the model can't be traced, or the file gives other logits than the model: the
            largest error over the rms of the logits is above `tolerance`.
    """
    base.tokenizer.save_pretrained(folder)
    if form == "transformers":
        base.model.save_pretrained(folder)
        return
    base.model.config.save_pretrained(folder)
    model = _Logits(base.model, input_names(base, pairs=pairs)).cpu().eval()
    path = folder / FILES[form]
    with _quiet():
        run = (_program if form == "program" else _onnx)(model, path, _longest(base))
    _check(run, model, form=form, vocabulary=base.model.config.vocab_size, tolerance=tolerance)


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


def _program(model: _Logits, path: Path, longest: int) -> Run:
    torch.export.save(_trace(model, longest), path)
    loaded: Any = torch.export.load(path).module()
    return loaded  # type: ignore[no-any-return]


def _onnx(model: _Logits, path: Path, longest: int) -> Run:
    import onnxruntime  # here: an extra

    inputs = list(model.inputs)
    names: Any = {"input_names": inputs, "output_names": ["logits"]}
    program: Any = torch.onnx.export(_trace(model, longest), dynamo=True, verbose=False, **names)
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*tensors: Tensor) -> Tensor:
        """Return the logits, like `_Logits`."""
        arrays = [tensor.numpy() for tensor in tensors]
        return torch.from_numpy(session.run(None, dict(zip(inputs, arrays, strict=True)))[0])

    return run


def _trace(model: _Logits, longest: int) -> torch.export.ExportedProgram:
    free = {0: torch.export.Dim("rows", min=1), 1: torch.export.Dim("tokens", min=2, max=longest)}
    example = _tokens(*EXAMPLE, vocabulary=8)[: len(model.inputs)]
    try:
        return torch.export.export(model, example, dynamic_shapes=((free,) * len(example),))
    except Exception as error:  # torch.export has no error of its own
        reason = str(error).strip().splitlines()[0]
        fault = f"{type(model.model).__name__} can't be traced ({reason})"
        raise MergeError(fault, where="--format", remedy="--format transformers") from error


@torch.no_grad()
def _check(run: Run, model: _Logits, *, form: str, vocabulary: int, tolerance: float) -> None:
    for rows, tokens in SHAPES:
        batch = _tokens(rows, tokens, vocabulary=vocabulary)[: len(model.inputs)]
        error = relative_error(run(*batch), model(*batch))
        if not error <= tolerance:
            raise MergeError(
                f"a logit of {rows} rows of {tokens} tokens is off by {error:.1e} of their rms",
                where=f"--format {form}",
                expected=f"at most {tolerance:.1e}",
                remedy="nothing was written; use --format transformers",
            )


def _tokens(rows: int, tokens: int, *, vocabulary: int) -> tuple[Tensor, ...]:
    """Return some token ids, a mask in which every other row has a token of padding, and token types."""
    ids = torch.arange(rows * tokens).reshape(rows, tokens) * 7 % vocabulary
    mask = torch.ones_like(ids)
    mask[1::2, -1] = 0
    types = (torch.arange(tokens) >= tokens // 2).long().expand(rows, tokens) * mask
    return ids, mask, types


def _longest(base: Base) -> int:
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
