"""2,000 texts through predict.py, from the command line, a file and standard input: one row out for each, in order.

500 damaged tables through it, to every form of output.

pytest -m torture tests/torture/test_texts.py -s       the counts by kind
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.alarm import no_hang
from support.command_line import call
from support.damage import told
from support.data_damage import FORMATS, damage_data, good_file
from support.folders import save_base

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.commands import predict
from lora_scratch.deploy.classify import Classifier
from lora_scratch.runs import open_base
from lora_scratch.serialization import save_adapter

SHORT, FULL = 60, 2000
KINDS = {
    "plain": lambda rng: " ".join(rng.choices(["i", "am", "so", "happy", "sad"], k=rng.randint(1, 60))),
    "empty": lambda rng: "",
    "blank": lambda rng: rng.choice([" ", "\t", "\u3000", "\x0b", "\x1c", "\xa0 ", "\u200b", "\ufeff\ufeff", "\u2060\x1b"]),
    "control": lambda rng: "".join(chr(rng.randrange(1, 32)) for _ in range(8)).replace("\n", "") + "a",
    "NUL": lambda rng: "a\0b",
    "return": lambda rng: "a\rb" + rng.choice(["", "\r\r"]) + "c",
    "emoji": lambda rng: rng.choice(["👩‍👩‍👧", "🏳️‍🌈 yes", "\U0001f468\u200d" * 50 + "!"]),
    "right to left": lambda rng: rng.choice(["مرحبا", "שלום \u202e abc", "\u202e\u202d\u2066x"]),
    "markup": lambda rng: rng.choice(
        ["<script>alert(1)</script>", "[CLS] [SEP] [MASK] [PAD]", "</s><s>", "{{7*7}}", "%s %n", "$(id)"]
    ),
    "combining": lambda rng: "e" + "\u0301" * rng.choice([1, 1000]),
    "any letters": lambda rng: "".join(chr(c) for c in rng.choices([*range(33, 0xD800), *range(0xE000, 0x11000)], k=40)),
    "private": lambda rng: "\ue000\ufffe\uffff\U0010ffff\ufeffx",
    "surrogate": lambda rng: "a" + chr(rng.randrange(0xDC80, 0xDD00)),
    "JSON": lambda rng: json.dumps({"text": "a", "label": "\n"}),
    "quotes": lambda rng: '"\'`\\"',
    "long word": lambda rng: "a" * rng.choice([1000, 10**5]),
    "a megabyte": lambda rng: (
        ("happy " * 170_000)[: rng.choice([2**20, 2**20 - 1])] if rng.random() < 0.05 else "happy " * 500
    ),
    "a dash more": lambda rng: "text -- - --flag",
}
REFUSED = {"empty", "blank", "NUL", "surrogate"}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """Any adapter will do."""
    place = tmp_path_factory.mktemp("texts")
    base = save_base(place / "base", labels=("a", "b"))
    model = inject(open_base(str(base), labels=("yes", "no")).model, LoRAConfig(rank=2))
    return save_adapter(
        model, place / "adapter", base_model=str(base), notes={"labels": ["yes", "no"], "data": {"max_tokens": 16}}
    )


def drawn(seeds: range) -> Iterator[tuple[str, str]]:
    """(kind, text) for every seed; the last is plain, since blank lines at the end of a file are no texts."""
    for seed in seeds:
        rng = random.Random(seed)  # noqa: S311
        kind = "plain" if seed == seeds[-1] else rng.choice(list(KINDS))
        yield kind, KINDS[kind](rng)


def check(rows: list[tuple[str, str]], out: str) -> Counter[str]:
    """One object a row, in order: the text and its label, or what is wrong with it."""
    answers = [json.loads(line) for line in out.splitlines()]
    assert len(answers) == len(rows)
    counts: Counter[str] = Counter()
    for number, ((kind, text), answer) in enumerate(zip(rows, answers, strict=True), 1):
        if kind in REFUSED:
            assert (answer["text"], answer["label"]) == (None, None), (number, kind)
            assert f"{number}: " in answer["error"], (number, kind, answer)
        else:
            assert answer["text"] == text, (number, kind)
            assert answer["label"] in ("yes", "no")
            assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-5)
        counts[f"{'error in its place' if kind in REFUSED else 'classified':<20} {kind}"] += 1
    return counts


def through(door: str, rows: list[tuple[str, str]], place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments that bring the texts in by this door."""
    texts = [text for _, text in rows]
    if door == "command line":
        return ["--", *texts]
    content = "".join(f"{text}\n" for text in texts).encode(errors="surrogateescape")
    path = place / "texts.txt"
    path.write_bytes(content)
    if door == "file":
        return ["--file", str(path)]
    monkeypatch.setattr(sys, "stdin", path.open())
    return ["-"]


@pytest.mark.parametrize("door", ["command line", "file", "standard input"])
def test_every_text_comes_out_once_in_order_in_a_short_sample(adapter, tmp_path, monkeypatch, capsys, door):
    """The sample of the torture below that runs with the ordinary suite; the end of a window is no special place."""
    monkeypatch.setitem(Classifier.__call__.__kwdefaults__, "rows", 7)
    rows = list(drawn(range(SHORT)))
    arguments = through(door, rows, tmp_path, monkeypatch)
    assert call(predict, adapter, "--skip_bad_rows", *arguments) == 0
    captured = capsys.readouterr()
    check(rows, captured.out)
    bad = sum(kind in REFUSED for kind, _ in rows)
    assert f"{bad} texts could not be classified" in captured.err


@pytest.mark.torture
@pytest.mark.parametrize("door", ["command line", "file", "standard input"])
def test_every_text_comes_out_once_in_order(adapter, tmp_path, monkeypatch, capsys, door):
    """2,000 texts by each door, megabytes among them."""
    rows = list(drawn(range(FULL)))
    arguments = through(door, rows, tmp_path, monkeypatch)
    with no_hang(within_s=300):
        assert call(predict, adapter, "--skip_bad_rows", *arguments) == 0
    counts = check(rows, capsys.readouterr().out)
    with capsys.disabled():
        print(told(counts))


def damaged_tables(adapter: Path, place: Path, seeds: range, capsys: pytest.CaptureFixture[str]) -> Counter[str]:
    """Damage a table and classify it for every seed; the counts by outcome."""
    counts, failures = Counter[str](), list[str]()
    for seed in seeds:
        for left in place.iterdir():
            left.unlink()
        kind, form = FORMATS[seed % len(FORMATS)], random.Random(seed).choice(["csv", "tsv", "jsonl", "parquet"])  # noqa: S311
        path, output = good_file(place, kind), place / f"out.{form}"
        what = damage_data(path, random.Random(seed))  # noqa: S311
        column = [] if kind == "txt" else ["--text_column", "text"]
        flags = [*column, "--prefix", "new_", "--skip_bad_rows", "--output", output]
        try:
            with no_hang():
                code = call(predict, adapter, "--file", path, *flags)
            error = capsys.readouterr().err
            assert "Traceback" not in error
            assert (code, error.count("error: ")) in ((0, 0), (1, 1)), f"exit code {code}: {error[-200:]}"
            assert {entry.name for entry in place.iterdir()} == {path.name} | ({output.name} if code == 0 else set())
            counts[f"{'written' if code == 0 else 'refused':<10} {kind}"] += 1
        except Exception as failure:
            failures.append(f"{kind}, seed {seed}: {what}: {type(failure).__name__}: {str(failure)[:200]}")
    assert not failures, "\n".join([f"{len(failures)} of {len(seeds)}:", *failures[:40]])
    return counts


def test_a_damaged_table_is_written_whole_or_refused_in_a_short_sample(adapter, tmp_path, capsys):
    """The sample of the torture below that runs with the ordinary suite; the last two seeds once were tracebacks."""
    damaged_tables(adapter, tmp_path, range(4), capsys)
    damaged_tables(adapter, tmp_path, range(189, 196, 6), capsys)


@pytest.mark.torture
def test_a_damaged_table_is_written_whole_or_refused(adapter, tmp_path, capsys):
    """500 tables of every format, to every form of output: one line of error, no part of a file."""
    counts = damaged_tables(adapter, tmp_path, range(500), capsys)
    with capsys.disabled():
        print(told(counts))


def test_without_the_flag_the_first_bad_text_ends_the_command(adapter, tmp_path, capsys):
    """What came before it has been answered; the line is named."""
    (tmp_path / "texts.txt").write_bytes(b"fine\n\nfine\n")
    assert call(predict, adapter, "--file", tmp_path / "texts.txt") == 1
    assert "texts.txt:2: the text is empty; mend the row, or leave such rows out (--skip_bad_rows" in capsys.readouterr().err
