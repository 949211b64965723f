"""The demo's foundation model: built once, the same every time, never used when broken or written by newer libraries."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from lora_scratch.demo import foundation
from lora_scratch.demo.foundation import foundation_folder
from lora_scratch.errors import ModelError


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
    assert not foundation.is_usable(folder)
    assert foundation.is_usable(foundation_folder(progress=False, steps=1))
    assert (folder / "model.safetensors").read_bytes() == before


def written_by(folder: Path, library: str, number: str) -> dict[str, str]:
    """Change the stamp of `folder` to say that this version of the library wrote it; return all versions that it names."""
    stamp = json.loads((folder / foundation.STAMP).read_text(encoding="utf-8"))
    stamp["written_by"][library] = number
    (folder / foundation.STAMP).write_text(json.dumps(stamp), encoding="utf-8")
    return dict(stamp["written_by"])


@pytest.mark.parametrize("library", foundation.WRITERS)
def test_foundation_written_by_a_newer_library_is_rebuilt(cache: Path, library: str) -> None:
    """Its files may say what the installed release does not know, such as a new class of tokenizer: build, no error."""
    folder = foundation_folder(progress=False, steps=1)
    written_by(folder, library, "1000.0.0")
    assert not foundation.is_usable(folder)
    assert foundation_folder(progress=False, steps=1) == folder
    assert json.loads((folder / foundation.STAMP).read_text(encoding="utf-8"))["written_by"][library] == version(library)


@pytest.mark.parametrize(("number", "usable"), [("5.0.0", True), ("5.9.1rc1", True), ("5.23.0.dev0", True), ("5.24", False)])
def test_foundation_is_read_by_the_library_that_wrote_it_and_by_newer_ones(
    cache: Path, monkeypatch: pytest.MonkeyPatch, number: str, usable: bool
) -> None:
    """Versions are compared as numbers: 5.9 is older than 5.23."""
    folder = foundation_folder(progress=False, steps=1)
    installed = {**written_by(folder, "transformers", number), "transformers": "5.23.0"}
    monkeypatch.setattr(foundation, "version", installed.__getitem__)
    assert foundation.is_usable(folder) is usable


STAMPS = ['{"config.json": "00"}', '{"sha256": {}}', '{"written_by": []}', "[]", "null", '"text"', "[" * 100_000]


@pytest.mark.parametrize("stamp", STAMPS, ids=lambda stamp: stamp[:12])
def test_foundation_with_another_kind_of_stamp_is_rebuilt(cache: Path, stamp: str) -> None:
    """Also that of earlier releases, which named no versions."""
    folder = foundation_folder(progress=False, steps=1)
    (folder / foundation.STAMP).write_text(stamp, encoding="utf-8")
    assert not foundation.is_usable(folder)
    assert foundation.is_usable(foundation_folder(progress=False, steps=1))


def test_foundation_training_lowers_the_loss(cache: Path) -> None:
    """Some steps on the recipe change the weights; positions start as sines and are trained like the rest."""
    one, more = (weights(foundation_folder(progress=False, steps=steps)) for steps in (1, 4))
    assert all(not torch.equal(one[name], more[name]) for name in one if "weight" in name)


def test_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the XDG specification asks."""
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert foundation.cache_root() == Path.home() / ".cache" / "lora-scratch"


def test_a_full_disk_is_found_before_the_build(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how to choose another place."""
    monkeypatch.setattr(foundation, "build_foundation", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=4096))
    message = rf"{cache}/lora-scratch: 4,096 bytes are free; expected 1,048,576 .*set XDG_CACHE_HOME to a folder"
    with pytest.raises(ModelError, match=message):
        foundation_folder(progress=False, steps=1)


@pytest.mark.torture
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_of_four_processes_that_need_the_model_one_builds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty times; the others wait and find it whole."""
    for number in range(20):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(number)))
        children = [fork(build_or_find) for _ in range(4)]
        assert sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children) == [0, 0, 0, 1]


def fork(work: Callable[[], int]) -> int:
    """Start a process that ends with the number that `work` returns. Return its process id."""
    child = os.fork()
    if not child:
        code = 8
        try:
            code = work()
        finally:
            os._exit(code)
    return child


def build_or_find() -> int:
    """Return the number of models that this process builds; 9 if there is none in the end."""
    build, built = foundation.build_foundation, []
    foundation.build_foundation = lambda **how: built.append(how) or build(**how)
    return len(built) if foundation.is_usable(foundation_folder(progress=False, steps=1)) else 9
