"""3,000 damaged and hostile adapter folders: each is refused with a typed error, or is the adapter that was saved.

pytest -m torture tests/torture/test_adapter_folders.py -s       the counts by kind
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from support.adapter_damage import attack_adapter, damage_adapter
from support.alarm import no_hang
from support.damage import copy, told
from support.families import logits, record, tiny

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject
from lora_scratch.errors import AdapterFileError
from lora_scratch.layers import DoRALinear
from lora_scratch.serialization import AdapterContents, load_adapter, problems_in_folder, save_adapter
from lora_scratch.serialization.adapter_folder import CONFIG, PROVENANCE, WEIGHTS
from lora_scratch.serialization.peft_format import without_wrapper_copies
from lora_scratch.testing import move_adapter

peft = pytest.importorskip("peft")
SHORT, FULL, MORE = 60, 1000, 500
Damage = Callable[[Path, random.Random], str]

# (family, settings): what there is in a file is in one of these
ADAPTERS = {
    "lora": ("distilbert", {}),
    "dora": ("distilbert", {"variant": "dora"}),
    "rslora, patterns": ("distilbert", {"rslora": True, "rank_pattern": {"k_lin": 2}, "alpha_pattern": {"q_lin": 3.5}}),
    "biases": ("distilbert", {"bias": "all"}),
    "pissa": ("distilbert", {"init": "pissa"}),
    "embedding, no head": ("distilbert", {"targets": ["word_embeddings", "q_lin"], "head_modules": []}),
    "one layer": ("distilbert", {"layers": [1], "targets": ["q_lin", "lin1"]}),
    "conv1d": ("gpt2", {"targets": ["c_attn"]}),
}


def adapted(family: str, *, seed: int, **options: object) -> torch.nn.Module:
    """An adapter away from its start."""
    model = inject(tiny(family), LoRAConfig(**{"rank": 4, "alpha": 6, "dropout": 0.0} | options), seed=seed)
    move_adapter(model, seed=seed)
    return model


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, Path]:
    """One saved folder of each kind."""
    place = tmp_path_factory.mktemp("good")
    notes = {"labels": ["joy", "anger", "fear"], "data": {"max_tokens": 16}, "training": {"precision": "fp32", "seed": 0}}
    return {
        name: save_adapter(adapted(family, seed=1, **options), place / name, base_model="tiny/base", notes=notes)
        for name, (family, options) in ADAPTERS.items()
    }


@pytest.fixture(scope="module")
def foreign(good, tmp_path_factory) -> dict[str, Path]:
    """The same without provenance.json, and one that PEFT itself has written."""
    place = tmp_path_factory.mktemp("foreign")
    folders = {name: copy(folder, place / name) for name, folder in good.items()}
    for folder in folders.values():
        (folder / PROVENANCE).unlink()
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=6, target_modules=["q_lin", "v_lin"], bias="lora_only")
    model = peft.get_peft_model(tiny("distilbert"), config)
    model.save_pretrained(place / "peft")
    return {**folders, "peft": place / "peft"}


@pytest.fixture
def other(tmp_path) -> None:
    """Another adapter of the plain kind, for files to be mixed up with."""
    save_adapter(adapted("distilbert", seed=2), tmp_path / "another", base_model="tiny/base")


def one(good: Path, family: str, folder: Path, seed: int, damage: Damage) -> tuple[str, str]:
    """(what was done, what came of it): refused with which error, or equal. Anything else raises."""
    model, whole = tiny(family), tiny(family)
    before = record(model)
    load_adapter(whole, good)
    what = damage(copy(good, folder), random.Random(seed))  # noqa: S311
    try:
        with no_hang(within_s=10):
            problems = problems_in_folder(folder)
            try:
                load_adapter(model, folder)
            except AdapterFileError as error:
                assert record(model) == before, "refused, and the model has changed"
                return what, f"refused: {type(error).__name__}"
            assert problems == [], f"loads, and verify says {problems}"
        if (folder / PROVENANCE).exists():
            assert record(model) == record(whole), "loads other tensors"
            assert torch.equal(logits(model), logits(whole)), "loads with other logits"
            return what, "equal"
        return what, f"no provenance: {as_the_files_say(model, folder)}"
    except BaseException as error:
        raise AssertionError(f"seed {seed}: {what}: {type(error).__name__}: {error}") from error


def as_the_files_say(model: torch.nn.Module, folder: Path) -> str:
    """The promise for a folder without provenance.json: what is loaded is exactly what its two files hold.

    Every tensor of the file is in the model, every adapted layer has its A and B from there, and its scaling is that of the
    fields. That the numbers are those that were once written can't be known without a digest.
    """
    stored = load((folder / WEIGHTS).read_bytes())
    fields = json.loads((folder / CONFIG).read_bytes())
    used = set()
    for name, tensor in AdapterContents.of(model).trained.items():
        assert torch.equal(tensor, stored[name].to(tensor.dtype)), f"{name} is not the file's"
        used.add(name)
    assert used == set(without_wrapper_copies(stored)), "tensors of the file are passed over"
    for name, layer in adapter_layers(model).items():
        alphas = [v for key, v in (fields.get("alpha_pattern") or {}).items() if as_peft_matches(key, name)]
        strength = (alphas or [fields["lora_alpha"]])[0]
        rank = adapter_tensor_rank(layer)
        expected = strength / (math.sqrt(rank) if fields.get("use_rslora") else rank)
        assert layer.scaling == pytest.approx(expected, rel=1e-12), f"{name} has another scaling"
        assert isinstance(layer, DoRALinear) == bool(fields.get("use_dora")), f"{name} is another kind of layer"
    return "loads what its files hold"


def as_peft_matches(key: str, name: str) -> bool:
    """Python allows flags at the start alone, where PEFT has a group."""
    flags = re.IGNORECASE if key.startswith("(?i)") else 0
    return re.match(rf"(.*\.)?({key.removeprefix('(?i)')})$", name, flags) is not None


def adapter_tensor_rank(layer: torch.nn.Module) -> int:
    """The rank by the tensor."""
    return next(tensor.shape[0] for suffix, tensor in layer.adapter_tensors().items() if "_A" in suffix)


def run(good: dict[str, Path], tmp_path: Path, seeds: range, damage: Damage = damage_adapter) -> Counter[str]:
    """Damage and load for every seed; the counts by outcome, and by what was done. Nothing else is written to."""
    before = {path: path.read_bytes() for path in tmp_path.rglob("another/*")}
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    for seed in seeds:
        kind = list(good)[seed % len(good)]
        family = ADAPTERS[kind][0] if kind in ADAPTERS else "distilbert"
        try:
            what, outcome = one(good[kind], family, tmp_path / "adapter", seed, damage)
        except AssertionError as failure:
            failures.append(f"{kind}, {failure}")
            continue
        outcomes[f"{outcome:<45} {' '.join(what.split()[:2])}"] += 1
    assert not failures, "\n".join([f"{len(failures)} of {len(seeds)}:", *failures[:40]])
    assert {path: path.read_bytes() for path in tmp_path.rglob("another/*")} == before
    return outcomes


def test_damaged_folder_is_refused_or_equal_in_a_short_sample(good, other, tmp_path):
    """The sample of the torture below that runs with the ordinary suite."""
    run(good, tmp_path, range(SHORT))


def test_damaged_folder_of_another_tool_is_refused_or_loads_what_it_holds_in_a_short_sample(foreign, other, tmp_path):
    """The same where there is no digest."""
    run(foreign, tmp_path, range(SHORT))


def test_hostile_folder_is_refused_or_equal_in_a_short_sample(good, foreign, other, tmp_path):
    """Patterns, shapes, kinds of file: of ours, and of another tool."""
    run(good, tmp_path, range(SHORT // 2), attack_adapter)
    run(foreign, tmp_path, range(SHORT // 2), attack_adapter)


@pytest.mark.torture
@pytest.mark.parametrize("origin", ["good", "foreign"])
def test_hostile_folder_is_refused_or_equal(origin, other, tmp_path, capsys, request):
    """500 of each origin."""
    counts = run(request.getfixturevalue(origin), tmp_path, range(MORE), attack_adapter)
    with capsys.disabled():
        print(told(counts))


@pytest.mark.torture
def test_damaged_folder_is_refused_or_equal(good, other, tmp_path, capsys):
    """1,000 damaged folders of ours: refused with a typed error and the model as it was, or the same tensors and logits."""
    counts = run(good, tmp_path, range(FULL))
    with capsys.disabled():
        print(told(counts))


@pytest.mark.torture
def test_damaged_folder_of_another_tool_is_refused_or_loads_what_it_holds(foreign, other, tmp_path, capsys):
    """1,000 without provenance.json: as strict a structure; a changed number that is still a number can't be told."""
    counts = run(foreign, tmp_path, range(FULL))
    with capsys.disabled():
        print(told(counts))
