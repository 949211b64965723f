"""A plain model in a form that runs without its Python code: transformers' folder, torch.export's program, or ONNX.

Beside model.pt2 or model.onnx lie config.json, which has the labels, and the tokenizer. Inputs: `input_ids` and
`attention_mask`, (B, T) int64 with T from 2 to what the model has positions for; output: `logits`, (B, C).
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
from ..model import Base
from ..runtime.extras import missing, remedy
from ..testing import relative_error

FORMATS = ("transformers", "program", "onnx")
FILES = {"program": "model.pt2", "onnx": "model.onnx"}
EXAMPLE, SHAPES = (3, 5), ((1, 2), (2, 9), (5, 3))  # rows and tokens: what is traced, and what is asked of the file
LONGEST = 512  # where the model does not say
Run = Callable[[Tensor, Tensor], Tensor]


def check_format(form: str, *, dtype: str) -> None:
    """Refuse a form that can't be written, before the work.

    Raises:
        ConfigError: a package is not installed, or ONNX in a dtype that its runtime lacks kernels for on a CPU.
    """
    if form != "onnx":
        return
    if dtype != "float32":
        raise ConfigError(f"with --dtype {dtype}", where="--format onnx", expected="--dtype float32")
    if absent := missing("onnx"):
        raise ConfigError(f"{' and '.join(absent)} not installed", where="--format onnx", remedy=remedy("onnx"))


def write_plain(base: Base, folder: Path, *, form: str, tolerance: float) -> None:
    """The model and its tokenizer into `folder`, which exists, in one of FORMATS.

    Raises:
        MergeError: the model can't be traced, or the file, run again, does not say what the model says: its largest error
            over the rms of the logits is above `tolerance`.
    """
    base.tokenizer.save_pretrained(folder)
    if form == "transformers":
        base.model.save_pretrained(folder)
        return
    base.model.config.save_pretrained(folder)
    model = _Logits(base.model).cpu().eval()
    path = folder / FILES[form]
    with _quiet():
        run = (_program if form == "program" else _onnx)(model, path, _longest(base))
    _check(run, model, form=form, vocabulary=base.model.config.vocab_size, tolerance=tolerance)


class _Logits(nn.Module):
    """The model as a function of two tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Shape: (B, T), (B, T) -> (B, C)."""
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def _program(model: nn.Module, path: Path, longest: int) -> Run:
    torch.export.save(_trace(model, longest), path)
    loaded: Any = torch.export.load(path).module()
    return loaded  # type: ignore[no-any-return]


def _onnx(model: nn.Module, path: Path, longest: int) -> Run:
    import onnxruntime  # here: an extra

    names = {"input_names": ["input_ids", "attention_mask"], "output_names": ["logits"]}
    program: Any = torch.onnx.export(_trace(model, longest), dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As `_Logits`."""
        found = session.run(None, {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()})
        return torch.from_numpy(found[0])

    return run


def _trace(model: nn.Module, longest: int) -> torch.export.ExportedProgram:
    free = {0: torch.export.Dim("rows", min=1), 1: torch.export.Dim("tokens", min=2, max=longest)}
    try:
        return torch.export.export(model, _tokens(*EXAMPLE, vocabulary=8), dynamic_shapes=(free, free))
    except Exception as error:  # torch.export has no error of its own
        reason = str(error).strip().splitlines()[0]
        raise MergeError(
            f"{type(model.model).__name__} can't be traced ({reason})", where="--format", remedy="--format transformers"
        ) from error


@torch.no_grad()
def _check(run: Run, model: nn.Module, *, form: str, vocabulary: int, tolerance: float) -> None:
    for rows, tokens in SHAPES:
        batch = _tokens(rows, tokens, vocabulary=vocabulary)
        error = relative_error(run(*batch), model(*batch))
        if not error <= tolerance:
            raise MergeError(
                f"a logit of {rows} rows of {tokens} tokens is off by {error:.1e} of their rms",
                where=f"--format {form}",
                expected=f"at most {tolerance:.1e}",
                remedy="nothing was written; use --format transformers",
            )


def _tokens(rows: int, tokens: int, *, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Made-up token ids, and a mask in which every other row has a token of padding."""
    ids = torch.arange(rows * tokens).reshape(rows, tokens) * 7 % vocabulary
    mask = torch.ones_like(ids)
    mask[1::2, -1] = 0
    return ids, mask


def _longest(base: Base) -> int:
    """The most tokens that both tokenizer and positions allow."""
    return int(min(base.tokenizer.model_max_length, getattr(base.model.config, "max_position_embeddings", None) or LONGEST))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say on the way: that torchvision is not installed, and what will be renamed in them."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
