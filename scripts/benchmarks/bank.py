"""Rows a second of a batch whose rows name different adapters: the bank, a loop over adapted models, PEFT's mixed batch.

    python scripts/benchmarks/bank.py                                    the embedded demo model
    python scripts/benchmarks/bank.py --model DIR --adapters 8 --batch_size 64 --tokens 20 --precision fp32

`bank`: one model, gathered products. `loop`: one adapted model for each adapter, and each with the rows of its own.
`loop, merged`: the same with merged weights: N copies of the base, no adapter left to compute. `peft`: PEFT's model with
`adapter_names`, where peft is installed. `base`: the batch through the base alone, for comparison. Adapters and tokens are
random; contenders take turns, and the median of the rounds counts. The last column says how far a contender's logits are
from the loop's.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_scratch.adapter import LoRAConfig, inject, merge_all
from lora_scratch.deploy.bank import AdapterBank
from lora_scratch.errors import ConfigError
from lora_scratch.runs import argument_parser, check_given, open_base, run_command
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.runtime.seeds import named_generator
from lora_scratch.serialization import save_adapter
from lora_scratch.testing import move_adapter

LABELS = [f"label {index}" for index in range(6)]
Contender = Callable[[], Tensor]


def main() -> None:
    """Measure, and print a table."""
    options = parse()
    precision = resolve_precision(options.precision, resolve_device(options.device))
    with tempfile.TemporaryDirectory() as place, torch.no_grad(), precision.autocast():
        contenders = make_contenders(options, place, precision.device)
        expected = contenders["loop"]()
        distance = {name: (run() - expected).abs().max().item() for name, run in contenders.items()}
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(options.rounds):
            for name, run in contenders.items():
                seconds[name].append(elapsed_s(run, precision.device))
    print(f"{options.adapters} adapters, {options.batch_size} rows of {options.tokens} tokens, {precision.name}")
    for name, each in seconds.items():
        away = "" if name == "base" else f"   {distance[name]:.1e} from the loop"
        print(f"{name:13} {options.batch_size / statistics.median(each):9.1f} rows/s{away}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--model", default="demo", help="hub name or folder of a pretrained encoder, or demo (default)")
    parser.add_argument("--adapters", type=int, default=8, help="how many there are; each row names one at random")
    parser.add_argument("--rank", type=int, default=8, help="rank of each adapter")
    parser.add_argument("--batch_size", type=int, default=64, help="rows of the batch")
    parser.add_argument("--tokens", type=int, default=20, help="tokens of each row")
    parser.add_argument("--rounds", type=int, default=7, help="how often each contender runs")
    parser.add_argument("--precision", default="auto", help="compute dtype: fp32, bf16, fp16 or auto (default)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    options = parser.parse_args()
    check_given(parser, options)
    for name in ("adapters", "batch_size", "tokens", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: found {getattr(options, name)}, expected at least 1")
    return options


def make_contenders(options: argparse.Namespace, place: str, device: torch.device) -> dict[str, Contender]:
    """What each contender does with the one batch; all have the same adapters, saved in `place`."""
    longest = getattr(plain(options, device).config, "max_position_embeddings", options.tokens)
    if options.tokens > longest:
        raise ConfigError(f"found {options.tokens}", where="--tokens", expected=f"at most {longest}, what the model reads")
    loop = [adapted(options, number, device) for number in range(options.adapters)]
    folders = [save_adapter(model, f"{place}/{number}") for number, model in enumerate(loop)]
    merged = [adapted(options, number, device) for number in range(options.adapters)]
    for model in merged:
        merge_all(model)
    generator = named_generator(0, "benchmark_bank")
    slots = torch.randint(options.adapters, (options.batch_size,), generator=generator).to(device)
    ids = torch.randint(5, 1000, (options.batch_size, options.tokens), generator=generator).to(device)
    ids %= plain(options, device).config.vocab_size
    contenders = {
        "bank": bank_contender(options, folders, slots.tolist(), ids),
        "loop": loop_contender(loop, slots, ids),
        "loop, merged": loop_contender(merged, slots, ids),
    }
    if importlib.util.find_spec("peft"):
        contenders["peft"] = peft_contender(options, folders, slots.tolist(), ids)
    return {**contenders, "base": partial(logits, plain(options, device), ids)}


def plain(options: argparse.Namespace, device: torch.device) -> Any:
    """The base, with a head of its own."""
    return open_base(options.model, labels=LABELS).model.to(device)


def adapted(options: argparse.Namespace, number: int, device: torch.device) -> Any:
    """The base with a random adapter: that of this number, each time the same."""
    model = inject(plain(options, device), LoRAConfig(rank=options.rank, alpha=2 * options.rank), seed=number)
    move_adapter(model, size=0.02, seed=number)
    return model.eval()


def logits(model: Any, ids: Tensor) -> Tensor:
    """The model's answer to rows without padding."""
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()  # type: ignore[no-any-return]


def bank_contender(options: argparse.Namespace, folders: list[Path], slots: list[int], ids: Tensor) -> Contender:
    """All rows at once."""
    bank = AdapterBank(plain(options, ids.device), capacity=len(folders), max_rank=options.rank)
    for number, folder in enumerate(folders):
        bank.add(f"adapter {number}", folder)

    def run() -> Tensor:
        """One pass of the batch."""
        with bank.rows([f"adapter {slot}" for slot in slots]) as model:
            return logits(model, ids)

    return run


def loop_contender(models: list[Any], slots: Tensor, ids: Tensor) -> Contender:
    """One model after the other, each with its own rows."""

    def run() -> Tensor:
        """A pass for every model that has rows in the batch."""
        found = torch.empty(len(ids), len(LABELS), device=ids.device)
        for number, model in enumerate(models):
            rows = (slots == number).nonzero()[:, 0]
            if len(rows):
                found[rows] = logits(model, ids[rows])
        return found

    return run


def peft_contender(options: argparse.Namespace, folders: list[Path], slots: list[int], ids: Tensor) -> Contender:
    """PEFT's own: a loop over adapters in every layer."""
    import peft  # an extra

    model = peft.PeftModel.from_pretrained(plain(options, ids.device), folders[0], adapter_name="adapter-0")
    for number, folder in enumerate(folders[1:], 1):
        model.load_adapter(folder, adapter_name=f"adapter-{number}")
    model.eval()
    names = [f"adapter-{slot}" for slot in slots]
    return lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids), adapter_names=names).logits.float()


def elapsed_s(run: Contender, device: torch.device) -> float:
    """Seconds of one call, a GPU's work included."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    run_command(main)
