"""Measure rows a second of a batch whose rows name different adapters.

    python scripts/benchmarks/bank.py                                    the embedded demo model
    python scripts/benchmarks/bank.py --model DIR --adapters 8 --batch_size 64 --precision fp32

Contenders, which take turns:

    bank          one model that computes all adapters, with gathered products
    loop          one adapted model for each adapter, each with its own rows
    loop, merged  the same with merged weights: one copy of the base for each adapter
    peft          PEFT's model with `adapter_names`, if peft is installed
    base          the batch through the base alone, for comparison

Adapters and tokens are random, and the median of the rounds counts. The last column is the largest
difference of a contender's logits from those of the loop.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_scratch.adapter import LoRAConfig, inject, merge_all
from lora_scratch.commands.benchmarks.machine import machine_kind
from lora_scratch.deploy.bank import AdapterBank
from lora_scratch.errors import ConfigError
from lora_scratch.evaluation import Table, markdown_table
from lora_scratch.runs import argument_parser, check_given, open_base, run_command
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.runtime.seeds import named_generator
from lora_scratch.serialization import save_adapter
from lora_scratch.testing import move_adapter

LABELS = [f"label {index}" for index in range(6)]
SIZES = {  # flags: default and meaning; each at least 1
    "adapters": (8, "how many there are; each row names one at random"),
    "batch_size": (64, "rows of the batch"),
    "tokens": (20, "tokens of each row"),
    "rounds": (7, "how often each contender runs"),
}
Contender = Callable[[], Tensor]


def main() -> None:
    """Measure, and print a table."""
    options = parse()
    precision = resolve_precision(options.precision, resolve_device(options.device))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), precision.autocast():
        contenders = make_contenders(options, folder, precision.device)
        errors = compare_with_loop(contenders)
        seconds = measure_rounds(contenders, options.rounds, precision.device)
    sizes = f"{options.adapters} adapters, {options.batch_size} rows of {options.tokens} tokens"
    print(f"{sizes}, {precision.name}\n")
    header = [machine_kind(precision.device), "rows/s", "from the loop"]
    rows = [
        [
            name,
            f"{options.batch_size / median:,.1f}",
            "" if name == "base" else f"{errors[name]:.1e}",
        ]
        for name, median in seconds.items()
    ]
    print(markdown_table(Table(header, rows)))


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argument_parser(__doc__)
    model = "hub name or folder of a pretrained encoder, or demo (default)"
    parser.add_argument("--model", default="demo", help=model)
    for name, (default, meaning) in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=meaning)
    parser.add_argument("--rank", type=int, default=8, help="rank of each adapter")
    precision = "compute dtype: fp32, bf16, fp16 or auto (default)"
    parser.add_argument("--precision", default="auto", help=precision)
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    options = parser.parse_args()
    check_given(parser, options)
    for name in SIZES:
        if getattr(options, name) < 1:
            parser.error(f"--{name}: found {getattr(options, name)}, expected at least 1")
    return options


def make_contenders(
    options: argparse.Namespace,
    folder: str,
    device: torch.device,
) -> dict[str, Contender]:
    """Return what each contender does with the one batch.

    All have the same adapters, which are saved in `folder`.
    """
    slots, ids = random_batch(options, device)
    numbers = range(options.adapters)
    loop = [adapted(options, number, device) for number in numbers]
    merged = [adapted(options, number, device) for number in numbers]
    folders = [save_adapter(model, f"{folder}/{number}") for number, model in enumerate(loop)]
    for model in merged:
        merge_all(model)
    contenders = {
        "bank": bank_contender(options, folders, slots.tolist(), ids),
        "loop": loop_contender(loop, slots, ids),
        "loop, merged": loop_contender(merged, slots, ids),
    }
    if importlib.util.find_spec("peft"):
        contenders["peft"] = peft_contender(options, folders, slots.tolist(), ids)
    return {**contenders, "base": partial(logits, plain(options, device), ids)}


def random_batch(options: argparse.Namespace, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the adapter's number and the token ids of each row. Shape: -> (B,), (B, T).

    Raises:
        ConfigError: more tokens than the model reads.
    """
    config = plain(options, device).config
    longest = getattr(config, "max_position_embeddings", options.tokens)
    if options.tokens > longest:
        expected = f"at most {longest}, what the model reads"
        raise ConfigError(f"found {options.tokens}", where="--tokens", expected=expected)
    generator = named_generator(0, "benchmark_bank")
    slots = torch.randint(options.adapters, (options.batch_size,), generator=generator)
    ids = torch.randint(5, 1000, (options.batch_size, options.tokens), generator=generator)
    return slots.to(device), (ids % config.vocab_size).to(device)


def plain(options: argparse.Namespace, device: torch.device) -> Any:
    """Return the base, with a new head."""
    return open_base(options.model, labels=LABELS).model.to(device)


def adapted(options: argparse.Namespace, number: int, device: torch.device) -> Any:
    """Return the base with the random adapter of this number, the same at every call."""
    config = LoRAConfig(rank=options.rank, alpha=2 * options.rank)
    model = inject(plain(options, device), config, seed=number)
    move_adapter(model, size=0.02, seed=number)
    return model.eval()


def logits(model: Any, ids: Tensor, **options: Any) -> Tensor:
    """Return the model's logits of rows without padding. Shape: (B, T) -> (B, C)."""
    outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    return outputs.logits.float()  # type: ignore[no-any-return]


def bank_contender(
    options: argparse.Namespace,
    folders: list[Path],
    slots: list[int],
    ids: Tensor,
) -> Contender:
    """Return a function that computes all rows at once."""
    model = plain(options, ids.device)
    bank = AdapterBank(model, capacity=len(folders), max_rank=options.rank)
    for number, folder in enumerate(folders):
        bank.add(f"adapter {number}", folder)

    def run() -> Tensor:
        """Compute the batch in one pass."""
        with bank.rows([f"adapter {slot}" for slot in slots]) as model:
            return logits(model, ids)

    return run


def loop_contender(models: list[Any], slots: Tensor, ids: Tensor) -> Contender:
    """Return a function that computes one model after the other, each with its own rows."""

    def run() -> Tensor:
        """Compute a pass for every model that has rows in the batch."""
        result = torch.empty(len(ids), len(LABELS), device=ids.device)
        for number, model in enumerate(models):
            rows = (slots == number).nonzero()[:, 0]
            if len(rows):
                result[rows] = logits(model, ids[rows])
        return result

    return run


def peft_contender(
    options: argparse.Namespace,
    folders: list[Path],
    slots: list[int],
    ids: Tensor,
) -> Contender:
    """Return a function that computes the batch as PEFT does, adapter by adapter."""
    import peft  # an extra

    base, (first, *others) = plain(options, ids.device), folders
    model = peft.PeftModel.from_pretrained(base, first, adapter_name="adapter-0")
    for number, folder in enumerate(others, 1):
        model.load_adapter(folder, adapter_name=f"adapter-{number}")
    model.eval()
    names = [f"adapter-{slot}" for slot in slots]
    return partial(logits, model, ids, adapter_names=names)


def compare_with_loop(contenders: Mapping[str, Contender]) -> dict[str, float]:
    """Return the largest difference of each contender's logits from those of the loop."""
    expected = contenders["loop"]()
    return {name: (run() - expected).abs().max().item() for name, run in contenders.items()}


def measure_rounds(
    contenders: Mapping[str, Contender],
    rounds: int,
    device: torch.device,
) -> dict[str, float]:
    """Return the median seconds of each contender. They take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            seconds[name].append(elapsed_s(run, device))
    return {name: statistics.median(times) for name, times in seconds.items()}


def elapsed_s(run: Contender, device: torch.device) -> float:
    """Return the seconds of one call, a GPU's work included."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    run_command(main)
