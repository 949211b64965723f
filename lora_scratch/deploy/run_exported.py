"""Run an exported model as its users do: in an interpreter that knows neither this project nor PEFT.

A program of its own, which reload.py starts: `python -I run_exported.py`. Standard input is a request,
standard output the answer. A request is a line of JSON, then arrays as a safetensors file:

    folder, form, device   what to run, and where
    inputs                 names of the inputs, in the order in which a program takes them
    texts                  [text] or [text, pair], for the tokenizer; `max_tokens` of each
    paths                  where packages of the parent process lie
    0.input_ids ...        the inputs of batch 0, and so on

An answer is a safetensors file: `logits.0` (B, C) of every batch, and `tokens` of all texts in one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import load, save

Array = np.ndarray[Any, Any]
Run = Callable[[dict[str, Array]], Array]
STRANGERS = ("lora_scratch", "peft")  # an exported model needs neither, so that both are hidden


def main() -> None:
    """Answer one request."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    for name in STRANGERS:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails
    with output:
        output.write(answer(sys.stdin.buffer.read()))


def answer(request: bytes) -> bytes:
    """Return the answer to a request."""
    line, _, content = request.partition(b"\n")
    settings = json.loads(line)
    batches = _batches(load(content), settings["inputs"])
    sys.path += [path for path in settings["paths"] if path not in sys.path]
    run = READERS[settings["form"]](settings["folder"], settings["device"])
    answers = {f"logits.{number}": run(batch) for number, batch in enumerate(batches)}
    if settings["texts"]:
        answers["tokens"] = _tokens(settings["folder"], settings["texts"], settings["max_tokens"])
    return save({name: np.ascontiguousarray(array) for name, array in answers.items()})


def _batches(arrays: dict[str, Array], inputs: Sequence[str]) -> list[dict[str, Array]]:
    """Return the inputs of every batch, in the program's order."""
    count = len(arrays) // len(inputs)
    return [{name: arrays[f"{number}.{name}"] for name in inputs} for number in range(count)]


def _read_transformers(folder: str, device: str) -> Run:
    import torch
    from transformers import AutoModelForSequenceClassification

    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False).eval().to(device)

    def run(batch: dict[str, Array]) -> Array:
        """Return the logits of a batch."""
        with torch.no_grad():
            inputs = {name: torch.from_numpy(array).to(device) for name, array in batch.items()}
            logits: Array = model(**inputs).logits.float().cpu().numpy()
            return logits

    return run


def _read_program(folder: str, device: str) -> Run:
    import torch

    program: Any = torch.export.load(os.path.join(folder, "model.pt2")).module()

    def run(batch: dict[str, Array]) -> Array:
        """Return the logits of a batch."""
        with torch.no_grad():
            logits: Array = program(*map(torch.from_numpy, batch.values())).float().numpy()
            return logits

    return run


def _read_onnx(folder: str, device: str) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(os.path.join(folder, "model.onnx"), providers=["CPUExecutionProvider"])
    return lambda batch: session.run(["logits"], batch)[0]


def _tokens(folder: str, texts: Sequence[list[str]], max_tokens: int) -> Array:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    rows = [tokenizer(*text, truncation=True, max_length=max_tokens)["input_ids"] for text in texts]
    return np.array([token for row in rows for token in row], dtype=np.int64)


READERS: dict[str, Callable[[str, str], Run]] = {
    "transformers": _read_transformers,
    "program": _read_program,
    "onnx": _read_onnx,
}

if __name__ == "__main__":
    main()
