"""Read an exported folder in a new process, and compare its logits with those of the model that was written.

The new process runs run_exported.py: transformers, torch.export or ONNX Runtime, and nothing of this
project. It finds what the process that wrote the files can't: a file that was damaged on its way to the
disk, a setting that only this process knew, or a class that no other process can load.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor

from ..data import Encoded, Example, collate, encode, plan_eval_batches
from ..data.encode import beginning
from ..errors import MergeError
from ..evaluation.predict import BATCH_TOKENS
from ..model.base import Base
from ..model.checks import LONG, SHORT
from ..model.forward import evaluating, need_equal_lengths, pad_as_family
from ..testing import relative_error
from .formats import FILES, made_up_batches, most_tokens

PROGRAM = Path(__file__).with_name("run_exported.py")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
WHERE, REMEDY = "the written model, read again by a new process", "nothing was written"

Inputs = dict[str, Tensor]


class Rows(NamedTuple):
    """Rows as the tokenizer takes them, and as token ids. `texts`: one of [text] or [text, pair] for each row."""

    texts: list[list[str]]
    encoded: Encoded


def rows_of(examples: Sequence[Example], encoded: Encoded, base: Base) -> Rows:
    """Return the rows that `encoded` has the token ids of."""
    sides = [[row.text] if row.pair is None else [row.text, row.pair] for row in examples]
    most = encoded.max_tokens
    return Rows([[beginning(text, base.tokenizer, max_tokens=most) for text in side] for side in sides], encoded)


def probe_rows(base: Base, *, pairs: bool) -> Rows:
    """Return two rows for a model that is exported without any."""
    seconds = [LONG, SHORT] if pairs else None
    encoded = encode([SHORT, LONG], [0, 0], base.tokenizer, max_tokens=most_tokens(base), pairs=seconds)
    return Rows([list(row) for row in zip(*filter(None, ([SHORT, LONG], seconds)), strict=True)], encoded)


def check_reloaded(base: Base, folder: Path, *, form: str, rows: Rows, tolerance: float, device: torch.device) -> float:
    """Compare the files in `folder` with the model of `base`, which was written to them.

    Returns:
        The largest error of a logit / rms of all logits.

    Raises:
        MergeError: the error is above `tolerance`, the tokenizer gives other tokens, or nothing can be read.
    """
    batches = [*_batches(base, rows.encoded), *(made_up_batches(base, rows.encoded) if form in FILES else ())]
    device = torch.device("cpu") if form in FILES else device
    expected = _logits(base, batches, device)
    answer = load(in_new_process(_request(folder, form, rows, batches, device)))
    if not torch.equal(answer["tokens"], rows.encoded.tokens.long()):
        raise MergeError("the tokenizer gives other tokens", where=WHERE, remedy=REMEDY)
    error = relative_error(*(torch.cat([logits.flatten() for logits in side]) for side in (_sorted(answer), expected)))
    if not error <= tolerance:
        fault = f"a logit is off by {error:.1e} of their rms"
        raise MergeError(fault, where=WHERE, expected=f"at most {tolerance:.1e}", remedy=REMEDY)
    return error


def in_new_process(request: bytes) -> bytes:
    """Return what run_exported.py answers in a new interpreter, which ignores the environment's PYTHON variables.

    Raises:
        MergeError: it fails, with the last line that it wrote.
    """
    command = [sys.executable, "-I", str(PROGRAM)]
    done = subprocess.run(command, input=request, capture_output=True, env={**os.environ, **OFFLINE})  # noqa: S603
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        fault = lines[-1] if lines and done.returncode > 0 else f"the process ended with {done.returncode}"
        raise MergeError(fault, where=WHERE, remedy=REMEDY)
    return done.stdout


def _request(folder: Path, form: str, rows: Rows, batches: Sequence[Inputs], device: torch.device) -> bytes:
    settings = {
        "folder": str(folder),
        "form": form,
        "device": str(device),
        "inputs": list(batches[0]),
        "texts": rows.texts,
        "max_tokens": rows.encoded.max_tokens,
        "paths": [path for path in sys.path if os.path.isabs(path)],
    }
    tensors = {f"{i}.{name}": tensor.contiguous() for i, batch in enumerate(batches) for name, tensor in batch.items()}
    return json.dumps(settings).encode() + b"\n" + save(tensors)


def _batches(base: Base, encoded: Encoded) -> list[Inputs]:
    """Return the inputs of all rows, as the base's family pads them. Shape: (B, T) int64 each."""
    equal = need_equal_lengths(base.model)
    plan = plan_eval_batches(encoded.lengths, batch_tokens=BATCH_TOKENS["cpu"], equal_lengths=equal)
    batches = (collate(encoded, rows, pad_token_id=base.pad_token_id) for rows in plan)
    return [pad_as_family(base.model, batch.inputs) for batch in batches]


@torch.no_grad()
def _logits(base: Base, batches: Sequence[Inputs], device: torch.device) -> list[Tensor]:
    with evaluating(base.model):
        model = base.model.to(device)
        inputs = ({name: tensor.to(device) for name, tensor in batch.items()} for batch in batches)
        return [model(**batch).logits.float().cpu() for batch in inputs]


def _sorted(answer: dict[str, Tensor]) -> list[Tensor]:
    """Return the logits of all batches, in order."""
    names = [name for name in answer if name != "tokens"]
    return [answer[name] for name in sorted(names, key=lambda name: int(name.partition(".")[2]))]
