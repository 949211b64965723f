"""Where the memory of a training step goes: base, LoRA and full fine-tuning side by side, predicted and measured.

    python scripts/memory.py                                        a DistilBERT's size, 32 rows of 64 tokens
    python scripts/memory.py --model DIR --rows 8 --tokens 512 --rank 16 --json ledger.json

Predicted: from the sizes alone, by the formulas in lora_scratch/training/activations.py. Measured: the tensors of one step
in float32 on the plain path; `LoRA fast` is the same step as train.py takes it, in bfloat16 where the CPU has it. For
encoders of the BERT family.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.benchmark import BenchmarkModel, open_sized
from lora_scratch.data import Batch
from lora_scratch.errors import ConfigError
from lora_scratch.evaluation import Table, markdown_table
from lora_scratch.jobs import check_file, flag_parser, parse_flags, run_command
from lora_scratch.runtime.atomic import write_json
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.training.ledger import Ledger, measure_ledger, predict_ledger

LABELS = ("sadness", "joy", "love", "anger", "fear", "surprise")


@dataclass
class MemoryOptions:
    """The batch."""

    rows: int = field(default=32, metadata={"help": "rows of the batch"})
    tokens: int = field(default=64, metadata={"help": "tokens of each row, padding included"})
    json: str | None = field(default=None, metadata={"help": "write the bytes to this file"})

    def __post_init__(self) -> None:
        for name in ("rows", "tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"found {getattr(self, name)}", where=f"--{name}", expected="at least 1")


def main() -> None:
    """One model after another, so that none stands in the other's memory."""
    kinds = (BenchmarkModel, LoRAConfig, MemoryOptions)
    options = parse_flags(flag_parser(kinds, str(__doc__)))
    check_file(options[2].json)
    ledgers = ledgers_of(*options)
    print(markdown_table(table(ledgers)))
    if options[2].json:
        write_json(Path(options[2].json), {name: asdict(each) for name, each in ledgers.items()})


def ledgers_of(model: BenchmarkModel, adapter: LoRAConfig, options: MemoryOptions) -> dict[str, Ledger]:
    """By what is trained, and how it was found."""
    plain, fast = (resolve_precision(name, resolve_device("cpu")) for name in ("fp32", "auto"))
    found: dict[str, Ledger] = {}
    for name in ("base", "LoRA", "full"):
        prepared = prepare(name, model, adapter)
        found[f"{name}, predicted"] = predict_ledger(prepared, rows=options.rows, tokens=options.tokens)
        found[f"{name}, measured"] = measure_ledger(prepared, batch_of(prepared, options), plain)
    prepared = prepare("LoRA", model, adapter)
    found["LoRA fast, predicted"] = predict_ledger(prepared, rows=options.rows, tokens=options.tokens, fast=fast)
    found["LoRA fast, measured"] = measure_ledger(prepared, batch_of(prepared, options), fast, plain=False)
    return found


def prepare(name: str, model: BenchmarkModel, adapter: LoRAConfig) -> Any:
    """A fresh model of which nothing, an adapter and the head, or everything is trained."""
    base = open_sized(str(model.model), LABELS).model
    return inject(base, adapter) if name == "LoRA" else base.requires_grad_(name == "full")


def batch_of(model: Any, options: MemoryOptions) -> Batch:
    """Random tokens, every row of the same length."""
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.config.vocab_size, (options.rows, options.tokens), generator=drawn)
    return Batch(ids, torch.ones_like(ids), torch.zeros(options.rows, dtype=torch.int64), torch.arange(options.rows))


def table(ledgers: dict[str, Ledger]) -> Table:
    """MiB, a row for each kind of tensor."""
    kinds = [*next(iter(ledgers.values())).__dataclass_fields__, "total"]
    rows = [[kind, *(f"{getattr(each, kind) / 2**20:,.2f}" for each in ledgers.values())] for kind in kinds]
    return Table(["MiB", *ledgers], rows)


if __name__ == "__main__":
    run_command(main)
