"""The demo's foundation model: built once, the same every time, and never used when broken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from lora_scratch.demo import foundation
from lora_scratch.demo.foundation import foundation_folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForSequenceClassification.from_pretrained(folder).state_dict())


def test_foundation_is_built_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call builds nothing; the folder is a plain transformers model with the head negative/positive."""
    folder = foundation_folder(progress=False, steps=2)
    assert folder.parent == cache / "lora-scratch"
    monkeypatch.setattr(foundation, "build_foundation", None)
    assert foundation_folder(progress=False, steps=2) == folder
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_foundation_is_the_same_whatever_the_global_seed(cache: Path) -> None:
    """Two builds give the same bits, and the caller's random numbers and thread count stay as they were."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    first = weights(foundation_folder(progress=False, steps=2))
    torch.manual_seed(1)
    threads = torch.get_num_threads()
    (cache / "lora-scratch" / f"demo-{foundation.VERSION}-2-steps" / foundation.STAMP).unlink()
    second = weights(foundation_folder(progress=False, steps=2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", foundation.STAMP])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_broken_foundation_is_rebuilt(cache: Path, name: str, how: str) -> None:
    """A file cut short or missing is noticed, and the rebuilt folder is whole."""
    folder = foundation_folder(progress=False, steps=1)
    before = (folder / "model.safetensors").read_bytes()
    if how == "cut":
        (folder / name).write_bytes((folder / name).read_bytes()[:-5])
    else:
        (folder / name).unlink()
    assert not foundation.is_whole(folder)
    assert foundation.is_whole(foundation_folder(progress=False, steps=1))
    assert (folder / "model.safetensors").read_bytes() == before


def test_foundation_training_lowers_the_loss(cache: Path) -> None:
    """Some steps on the recipe change the weights; positions start as sines and are trained like the rest."""
    one, more = (weights(foundation_folder(progress=False, steps=steps)) for steps in (1, 4))
    assert all(not torch.equal(one[name], more[name]) for name in one if "weight" in name)


def test_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the XDG specification asks."""
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert foundation.cache_root() == Path.home() / ".cache" / "lora-scratch"
