"""lora_scratch/runs/hub.py, through the scripts: an adapter goes to the hub and comes back the same."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from support.command_line import call

from lora_scratch.commands import export, inspect_adapter, predict
from lora_scratch.deploy.serve import open_bank
from lora_scratch.errors import AdapterFileError
from lora_scratch.runs import local_adapter, push_adapter
from lora_scratch.runs.hub import FILES


class FakeHub:
    """Repositories are folders; it keeps what it was asked."""

    def __init__(self, root):
        self.root, self.private, self.asked = root, {}, []

    def create_repo(self, repo_id, *, private, exist_ok):
        self.private.setdefault(repo_id, private)
        assert exist_ok

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        place = self.root / repo_id
        place.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:
            if (Path(folder_path) / name).exists():
                shutil.copy(Path(folder_path) / name, place / name)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    def snapshot_download(self, repo_id, *, revision, allow_patterns):
        self.asked.append((repo_id, revision, allow_patterns))
        if not (self.root / repo_id).is_dir():
            raise RuntimeError("404 Client Error.\nRepository Not Found")
        return str(self.root / repo_id)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def test_an_adapter_goes_to_the_hub_with_its_card_and_classifies_from_there(hub, job, capsys):
    """Through the two scripts: the same four files in a private repository, and the answers of the local folder."""
    assert call(export, "push", job.adapter, "me/moods") == 0
    assert "https://hub/me/moods/commit/1" in capsys.readouterr().out
    assert hub.private == {"me/moods": True}
    files = {path.name: path.read_bytes() for path in (hub.root / "me/moods").iterdir()}
    assert files == {name: (Path(job.adapter) / name).read_bytes() for name in FILES}
    assert b"Results on the test rows" in files["README.md"]
    assert call(predict, job.adapter, "what a day") == 0
    local = capsys.readouterr().out
    assert call(predict, "hub:me/moods", "what a day") == 0
    assert capsys.readouterr().out == local


def test_verification_and_the_bank_take_names_of_the_hub_too(hub, job, capsys):
    """They open the files without `open_adapter`."""
    push_adapter(Path(job.adapter), "me/moods")
    assert call(inspect_adapter, "hub:me/moods", "--verify") == 0
    assert open_bank({"moods": "hub:me/moods"}).bank.adapters
    assert [repository for repository, *_ in hub.asked] == ["me/moods"] * 2


def test_a_revision_stands_behind_an_at_sign(hub):
    """And only the four files are asked for."""
    (hub.root / "me/moods").mkdir(parents=True)
    assert local_adapter("hub:me/moods@v2") == hub.root / "me/moods"
    assert hub.asked == [("me/moods", "v2", FILES)]


@pytest.mark.parametrize("name", ["me/moods", "checkpoints/mine/adapter"])
def test_a_path_never_asks_the_network(hub, name):
    """Also one that is not there: a mistyped path is a mistyped path."""
    with pytest.raises(AdapterFileError, match=f"^{name}: no such folder; expected an adapter folder"):
        local_adapter(name)
    assert hub.asked == []


def test_what_the_hub_does_not_have_is_one_line(hub, capsys):
    """Where, what the hub said, what to do; exit 1."""
    assert call(predict, "hub:me/none", "what a day") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    for part in ("hub:me/none", "Repository Not Found", "hf auth login"):
        assert part in error


def test_public_is_asked_for(hub, job):
    """Nobody publishes by accident, and nobody who asks is ignored."""
    assert push_adapter(Path(job.adapter), "me/open", public=True)
    assert hub.private == {"me/open": False}


def test_an_incomplete_folder_is_not_uploaded(hub, tmp_path):
    """No repository is made for it."""
    with pytest.raises(AdapterFileError, match=r"no adapter_model\.safetensors and no adapter_config\.json"):
        push_adapter(tmp_path, "me/empty")
    assert hub.private == {}
