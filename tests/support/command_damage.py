"""Command lines that work, and what can go wrong with them, by seed: values, paths, flags missing, extra, twice."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Line = list[str]

NUMBERS = [
    "0",
    "-1",
    "-0.5",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "1e-999",
    "9" * 40,
    "-" + "9" * 40,
    "0x10",
    "1_0",
    "٣",
    "1,5",
    "1.5",
    "½",
]
WORDS = [
    "",
    " ",
    "x",
    "None",
    "null",
    "True",
    "maybe",
    "\n",
    "a\nb",
    "\x1b[2J",
    "\u202e",
    "👩‍👩‍👧",
    "\udcff",
    "é" * 300,
    "a" * 5000,
    "-",
    "--",
    "'\"",
    "%s",
    "{}",
    "*",
]
PATHS = [
    "",
    ".",
    "..",
    "/",
    "missing/x",
    "../../missing",
    "a" * 300,
    "a/" * 3000,
    "\udcff",
    "a\nb",
    "~",
    "~nobody/x",
    "-",
    "--",
    "con:",
]
PATHS += [
    "https://example.invalid/x",
    "http://127.0.0.1:9/x",
    "s3://bucket/x",
    "file:///etc",
    "hf://a/b",
    "org/model/x",
    "org//model",
]
PATHS += [
    "../etc",
    "..\\..\\x",
    "x.csv",
    "x.parquet",
    "demo.csv",
    "name with blanks",
    "$(reboot)",
    "`id`",
    "owner/name@main",
    "0",
    "None",
]
KNOWN_GOOD_AND_LONG = {
    "--epochs",
    "--threads",
    "--rounds",
    "--batch_size",
    "--adapters",
}  # more of these is no mistake, only a long wait

WRITTEN_OVER = {"--json", "--figures", "--html"}  # a file that is named there is meant to be replaced


def flags_of(help_text: str) -> list[str]:
    """The long flags that --help names."""
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z_]*", help_text)) - {"--help", "--only", "--contenders", "--resume"})


def value(line: Line, flags: list[str], places: list[Path], rng: random.Random) -> str:
    """A flag, one that is there or another, with a value that it can hardly mean."""
    flag = rng.choice([*flags, *(part for part in line if part.startswith("--"))])
    kinds = [*NUMBERS, *WORDS, *PATHS, *(map(str, places) if flag not in WRITTEN_OVER else [])]
    if flag in KNOWN_GOOD_AND_LONG:
        kinds = [kind for kind in [*NUMBERS, *WORDS] if not re.fullmatch(r"\d+|1_0|٣", kind)]
    chosen = rng.choice(kinds)
    if flag in line and rng.random() < 0.7:
        line[line.index(flag) + 1 : line.index(flag) + 2] = [chosen]
    else:
        line += [flag, chosen] if rng.random() < 0.8 else [f"{flag}={chosen}"]
    return f"{flag} {chosen[:40]!a}"


def positional(line: Line, flags: list[str], places: list[Path], rng: random.Random) -> str:
    """Another first word, or one more."""
    chosen = rng.choice([*PATHS, *WORDS, *map(str, places)])
    if line and not line[0].startswith("-") and rng.random() < 0.7:
        line[0] = chosen
        return f"first word {chosen[:40]!a}"
    line.insert(rng.randint(0, len(line)), chosen)
    return f"a word more {chosen[:40]!a}"


def missing(line: Line, flags: list[str], places: list[Path], rng: random.Random) -> str:
    """A word that is not there."""
    return f"without {line.pop(rng.randrange(len(line)))!a}" if line else "nothing at all"


def twice(line: Line, flags: list[str], places: list[Path], rng: random.Random) -> str:
    """A flag without its value, twice, or one that there is not."""
    chosen = rng.choice([*flags, "--no_such_flag", "-x", "---", "--=", "--adapt", "--mod", "@file"])
    line.insert(rng.randint(0, len(line)), chosen)
    return f"a flag more {chosen}"


def shuffled(line: Line, flags: list[str], places: list[Path], rng: random.Random) -> str:
    """The words in another order."""
    rng.shuffle(line)
    return "another order"


KINDS: list[Callable[[Line, list[str], list[Path], random.Random], str]] = [
    *[value] * 8,
    *[positional] * 2,
    missing,
    twice,
    shuffled,
]


def damage_line(line: Line, flags: list[str], places: list[Path], rng: random.Random) -> str:
    """One or two damages to the command line; what they were."""
    return " + ".join(rng.choice(KINDS)(line, flags, places, rng) for _ in range(rng.choice([1, 1, 2])))


def command_lines(base: Path, data: Path, adapter: Path, out: Path) -> dict[str, Line]:
    """Command lines that work and take little time, by name: the command, and a word for one of several kinds."""
    few = ["--limit_train", "16", "--limit_eval", "6", "--epochs", "1", "--batch_size", "8", "--max_tokens", "16"]
    job = ["--model", base, "--dataset", data, "--precision", "fp32", *few]
    lines: dict[str, list[Any]] = {
        "train": [*job, "--output_dir", out / "run", "--rank", "2"],
        "benchmark": [*job, "--only", "training:ours", "--steps", "1", "--rank", "2"],
        "evaluate": [adapter, "--limit_eval", "6", "--json", out / "report.json"],
        "predict": [adapter, "some text", "another"],
        "export": ["merge", adapter, "--output", out / "plain"],
        "inspect": [adapter, "--json", out / "anatomy.json"],
        "explain": [adapter, "--module", "layer.0.attention.q_lin", "i am so happy"],
        "combine": ["--add", adapter, adapter, "--output", out / "sum"],
        "compress": [adapter, "--output", out / "small", "--energies", "1", "0.5", "--limit_eval", "6"],
        "ablate": [adapter, "--strengths", "0.5", "--limit_eval", "6", "--json", out / "ablation.json"],
        "benchmark-bank": ["--model", base, "--adapters", "1", "--batch_size", "2", "--rounds", "1", "--tokens", "4"],
        "compare": [*job, "--output_dir", out / "comparison", "--rungs", "lora", "--seeds", "0"],
        "section7": [*job, "--output_dir", out / "replay", "--ranks", "1", "2", "--budget", "4", "--processes", "1"],
        "check_data": ["--dataset", data, "--json", out / "check.json"],
        "predict adapters": ["--adapters", f"one={adapter}", "--file", data.parent / "rows.jsonl"],
        "export split": ["split", adapter, "--output", out / "served"],
        "gpu-acceptance": ["--only", "graph-vs-eager", "--device", "cpu", "--json", out / "gpu.json"],
    }
    return {script: [str(word) for word in line] for script, line in lines.items()}
