"""300 damaged and 200 hostile base models under one adapter: refused with a typed error, or the same logits.

    pytest -m torture tests/torture/test_base_folders.py -s       the counts by kind

The adapter knows its base by digests of the weights. Settings in config.json that no weight shows (the number of heads,
an epsilon) and the tokenizer are the base's own affair: where one of them is hit, other numbers than before may come.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from support.alarm import no_hang
from support.base_damage import attack_base
from support.damage import copy, damage_bytes, damage_place, told
from support.folders import save_base

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.errors import LoraScratchError
from lora_scratch.runs import open_adapter, open_base
from lora_scratch.serialization import save_adapter
from lora_scratch.testing import move_adapter

SHORT, FULL, HOSTILE = 12, 300, 200
FILES = ("model.safetensors", "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
IDS = torch.tensor([[2, 11, 12, 13, 3]])


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> tuple[Path, Path]:
    """A base and an adapter of it."""
    place = tmp_path_factory.mktemp("base")
    base = save_base(place / "base", labels=("a", "b"))
    model = inject(open_base(str(base), labels=("yes", "no")).model, LoRAConfig(rank=2, dropout=0.0))
    move_adapter(model)
    return base, save_adapter(model, place / "adapter", base_model=str(base), notes={"labels": ["yes", "no"]})


@torch.no_grad()
def logits(adapter: Path, base: Path) -> torch.Tensor:
    """What the adapter says on that base."""
    found: torch.Tensor = open_adapter(adapter, model=str(base)).base.model(input_ids=IDS).logits
    return found


def run(good: tuple[Path, Path], place: Path, seeds: range) -> Counter[str]:
    """Damage and open for every seed; the counts by outcome."""
    base, adapter = good
    whole, counts = logits(adapter, base), Counter[str]()
    failures: list[str] = []
    for seed in seeds:
        folder, rng = copy(base, place / "base"), random.Random(seed)  # noqa: S311
        name = FILES[seed % len(FILES)]
        what = damage_place(folder / name, rng) if rng.random() < 0.15 else damage_bytes(folder / name, rng)
        try:
            with no_hang():
                same = torch.equal(logits(adapter, folder), whole)
            assert same or name != "model.safetensors", "other logits with the same digests"
            counts[f"{'equal' if same else 'other settings':<28} {name}"] += 1
        except LoraScratchError as error:
            counts[f"refused: {type(error).__name__:<19} {name}"] += 1
        except Exception as error:
            failures.append(f"seed {seed}: {what}: {type(error).__name__}: {str(error)[:300]}")
    assert not failures, "\n".join([f"{len(failures)} of {len(seeds)}:", *failures[:40]])
    return counts


def attacked(good: tuple[Path, Path], place: Path, seeds: range) -> Counter[str]:
    """Attack and open for every seed; the counts by outcome. No code is run, and nothing else is written to."""
    base, adapter = good
    whole, counts, failures = logits(adapter, base), Counter[str](), list[str]()
    (place / "outside").mkdir(exist_ok=True)
    (place / "outside" / "file").write_bytes(b"not of the model")
    for seed in seeds:
        folder = copy(base, place / "base")
        what = attack_base(folder, random.Random(seed))  # noqa: S311
        try:
            with no_hang():  # tensors of a longer header lie elsewhere in memory, which can change a rounding
                same = torch.allclose(logits(adapter, folder), whole, rtol=1e-5, atol=1e-6)
            assert same or what.startswith("settings"), "other logits with the same digests"
            counts[f"{'equal' if same else 'other settings':<28} {what.split()[0]}"] += 1
        except LoraScratchError as error:
            counts[f"refused: {type(error).__name__:<19} {what.split()[0]}"] += 1
        except Exception as error:
            failures.append(f"seed {seed}: {what}: {type(error).__name__}: {str(error)[:300]}")
        assert (place / "outside" / "file").read_bytes() == b"not of the model"
        assert not Path("was_run").exists()
    assert not failures, "\n".join([f"{len(failures)} of {len(seeds)}:", *failures[:60]])
    return counts


def test_hostile_base_is_refused_or_equal_in_a_short_sample(good, tmp_path):
    """The sample of the torture below that runs with the ordinary suite."""
    attacked(good, tmp_path, range(2 * SHORT))


@pytest.mark.torture
def test_hostile_base_is_refused_or_equal(good, tmp_path, capsys):
    """200 base folders: settings, tokenizers, headers, places."""
    counts = attacked(good, tmp_path, range(HOSTILE))
    with capsys.disabled():
        print(told(counts))


def test_damaged_base_is_refused_or_equal_in_a_short_sample(good, tmp_path):
    """The sample of the torture below that runs with the ordinary suite."""
    run(good, tmp_path, range(SHORT))


@pytest.mark.torture
def test_damaged_base_is_refused_or_equal(good, tmp_path, capsys):
    """300 base folders under one adapter."""
    counts = run(good, tmp_path, range(FULL))
    with capsys.disabled():
        print(told(counts))
