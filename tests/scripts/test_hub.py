"""lora_scratch/runs/hub.py, through the scripts and huggingface_hub's own client, against a hub on this machine."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants
from support.command_line import call
from support.stand_in_hub import GONE, TOKEN, stand_in_hub

from lora_scratch.commands import export, inspect_adapter, predict
from lora_scratch.deploy.serve import open_bank
from lora_scratch.errors import AdapterFileError
from lora_scratch.runs import local_adapter, push_adapter
from lora_scratch.runs.hub import FILES

NAME = "me/moods"
COMMIT = f"POST /api/models/{NAME}/commit/main"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that huggingface_hub asks in place of the real one, with a cache of its own and no waiting."""
    with stand_in_hub() as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its server is not part of the stand-in
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield server


def error_of(capsys):
    """The line that a failed command ends with; the token is nowhere."""
    shown = capsys.readouterr()
    assert TOKEN not in shown.out + shown.err
    assert "Traceback" not in shown.err
    return shown.err.strip().splitlines()[-1]


def test_an_adapter_goes_to_the_hub_with_its_card_and_classifies_from_there(hub, job, capsys):
    """Through the two scripts: the same files in a private repository, and the answers of the local folder."""
    assert call(export, "push", job.adapter, NAME) == 0
    shown = capsys.readouterr().out
    assert f"{hub.endpoint}/{NAME}/commit/" in shown
    assert f"base_model is left out: {job.base} is on no hub; name it with --base_model OWNER/NAME" in shown
    repository = hub.repositories[NAME]
    assert repository.private
    assert {*repository.files} == {*FILES}
    for name in {*FILES} - {"README.md"}:
        assert repository.files[name] == (Path(job.adapter) / name).read_bytes()
    assert call(predict, job.adapter, "what a day") == 0
    local = capsys.readouterr().out
    assert call(predict, f"hub:{NAME}", "what a day") == 0
    assert capsys.readouterr().out == local


def test_the_card_that_is_pushed_says_what_the_flags_say(hub, job, capsys):
    """License, languages, examples and the base by its hub name; the folder itself stays as it is."""
    before = {name: (job.adapter / name).read_bytes() for name in FILES}
    flags = ["--license", "apache-2.0", "--language", "en", "de", "--widget", "a: b\n---\n# c", "--base_model", "big/base"]
    assert call(export, "push", job.adapter, NAME, *flags) == 0
    assert f"base_model: big/base (here it is {job.base})" in capsys.readouterr().out
    assert before == {name: (job.adapter / name).read_bytes() for name in FILES}
    files = hub.repositories[NAME].files
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.language, card.data.base_model) == ("apache-2.0", ["en", "de"], "big/base")
    assert card.data.widget == [{"text": "a: b\n---\n# c"}]
    assert card.data.model_name == "moods"
    assert card.text == ModelCard(before["README.md"].decode()).text
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "big/base"


def test_elsewhere_the_base_is_found_by_its_hub_name(hub, job, tmp_path, capsys):
    """The folder that provenance.json names is not there; here the hub's name stands for another folder."""
    moved = shutil.copytree(job.adapter, tmp_path / "adapter")
    record = json.loads((moved / "adapter_config.json").read_text(encoding="utf-8"))
    (moved / "adapter_config.json").write_text(json.dumps({**record, "base_model_name_or_path": str(tmp_path / "base")}))
    base = job.base.rename(tmp_path / "base")
    try:
        assert call(predict, moved, "what a day") == 0
    finally:
        base.rename(job.base)
    assert json.loads(capsys.readouterr().out)["label"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--license", "my own"], "--license: found 'my own'; expected an identifier such as apache-2.0"),
        (["--language", "English"], "--language: found 'English'; expected an ISO code such as en"),
        (["--base_model", "/data/base"], "--base_model: found '/data/base'; expected a name on the hub such as owner/name"),
    ],
    ids=["license", "language", "base_model"],
)
def test_a_flag_that_no_card_can_hold_is_wrong_usage(hub, job, capsys, flags, message):
    """Exit 2, before anything is sent."""
    assert call(export, "push", job.adapter, NAME, *flags) == 2
    assert message in error_of(capsys)
    assert hub.calls == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"repos/create": 401}, "the hub does not accept the token, or there is no such repository: 401); .*log in with"),
        ({"repos/create|revision": 403}, "the token may not do this there: 403); .*use a token with the right to write"),
        ({"preupload": 403}, "the token may not do this there: 403"),
        ({"repos/create": 409}, "the hub's answer has no 'url'"),
        ({"commit": 409}, "the name is taken, or another upload is in progress: 409); .*choose another name"),
        ({"repos/create": GONE}, "without sending a response.*check the connection"),
        ({"PUT /lfs": GONE}, "'adapter_model.safetensors' to the Hub. Server disconnected.*check the connection"),
        ({"commit": GONE}, "without sending a response.*check the connection"),
        ({"PUT /lfs": 503}, "the hub is out of order: 503); .*try again later"),
        ({"commit": 500}, "the hub is out of order: 500"),
    ],
    ids=lambda value: " ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_a_push_that_fails_is_one_line_and_commits_nothing(hub, job, capsys, fault, message):
    """Where, what happened, what to do; exit 1."""
    hub.faults |= fault
    assert call(export, "push", job.adapter, NAME) == 1
    line = error_of(capsys)
    expected = message.replace(")", r"\)")
    assert line.startswith(f"error: {NAME}: could not be uploaded (")
    assert re.search(expected, line), line
    assert all(not repository.files for repository in hub.repositories.values())


def test_the_xet_clients_answer_is_one_line_too(hub, job, capsys, monkeypatch):
    """It comes from another library, with the status in its text."""
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.faults["xet-write-token"] = 403
    assert call(export, "push", job.adapter, NAME) == 1
    assert "the token may not do this there: 403" in error_of(capsys)
    assert hub.repositories[NAME].files == {}


def test_a_license_that_the_hub_does_not_know_is_one_line(hub, job, capsys):
    """The hub's own words say which."""
    assert call(export, "push", job.adapter, NAME, "--license", "unknown-license") == 1
    assert '"license" must be one of' in error_of(capsys)


@pytest.mark.parametrize("token", ["hf_wrong", f"{TOKEN}\x01", "plain secret\x01", "hf_é"], ids=ascii)
def test_a_token_is_never_shown(hub, job, capsys, monkeypatch, token):
    """Neither one that the hub refuses nor one that no header can hold."""
    monkeypatch.setenv("HF_TOKEN", token)
    assert call(export, "push", job.adapter, NAME) == 1
    shown = capsys.readouterr()
    assert token.rstrip("\x01") not in shown.out + shown.err


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({}, "there is no such repository, or the token may not see it: 404"),
        ({"revision": 401}, "the hub does not accept the token"),
        ({"revision": 503}, "out of order: 503"),
    ],
    ids=["absent", "401", "503"],
)
def test_what_the_hub_does_not_give_is_one_line(hub, capsys, fault, message):
    """Where, what the hub said, what to do; exit 1."""
    hub.faults |= fault
    assert call(predict, "hub:me/none", "what a day") == 1
    line = error_of(capsys)
    assert line.startswith("error: hub:me/none: could not be fetched (")
    assert message in line


def test_a_second_push_is_another_commit_of_the_same_repository(hub, job):
    """Public or not stays as it was; an unchanged name is no error."""
    push_adapter(job.adapter, NAME, public=True)
    push_adapter(job.adapter, NAME)
    assert (hub.repositories[NAME].private, hub.repositories[NAME].commits) == (False, 2)


def test_verification_and_the_bank_take_names_of_the_hub_too(hub, job):
    """They open the files without `open_adapter`."""
    push_adapter(job.adapter, NAME)
    assert call(inspect_adapter, f"hub:{NAME}", "--verify") == 0
    assert open_bank({"moods": f"hub:{NAME}"}).bank.adapters


def test_a_revision_stands_behind_an_at_sign(hub, job):
    """And only the four files are fetched."""
    push_adapter(job.adapter, NAME)
    hub.repositories[NAME].files["pytorch_model.bin"] = b"x"
    folder = local_adapter(f"hub:{NAME}@v2")
    assert any("/revision/v2" in called or "/tree/v2" in called for called in hub.calls)
    assert {path.name for path in folder.iterdir()} == {*FILES}


@pytest.mark.parametrize("name", ["me/moods", "checkpoints/mine/adapter"])
def test_a_path_never_asks_the_network(hub, name):
    """Also one that is not there: a mistyped path is a mistyped path."""
    with pytest.raises(AdapterFileError, match=f"^{name}: no such folder; expected an adapter folder"):
        local_adapter(name)
    assert hub.calls == []


def test_an_incomplete_folder_or_name_is_not_uploaded(hub, job, tmp_path):
    """No repository is made for it."""
    with pytest.raises(AdapterFileError, match=r"no adapter_model\.safetensors and no adapter_config\.json"):
        push_adapter(tmp_path, "me/empty")
    with pytest.raises(AdapterFileError, match="moods: this is no name of a repository; expected owner/name"):
        push_adapter(job.adapter, "moods")
    assert hub.calls == []


@pytest.mark.parametrize("card", [None, "# A card\n", "---\nbase_model: /home/me/base\n---\n# A card\n"])
def test_a_folder_of_pefts_gets_the_metadata_too(hub, job, tmp_path, card):
    """With a card of PEFT's, without metadata, and without a card; a folder's path never becomes a name of a base."""
    folder = shutil.copytree(job.adapter, tmp_path / "adapter")
    (folder / "README.md").unlink()
    if card:
        (folder / "README.md").write_text(card)
    push_adapter(folder, NAME, metadata={"base_model": None, "license": "mit"})
    pushed = hub.repositories[NAME].files["README.md"].decode()
    assert pushed == "---\nlicense: mit\n---\n" + ("# A card\n" if card else "")


def test_a_card_whose_metadata_cannot_be_read_is_one_line(hub, job, tmp_path, capsys):
    """Nothing is sent."""
    folder = shutil.copytree(job.adapter, tmp_path / "adapter")
    (folder / "README.md").write_text("---\na: [\n---\n")
    assert call(export, "push", folder, NAME) == 1
    assert "README.md: the metadata of README.md are not valid YAML; correct README.md, or remove it" in error_of(capsys)
    assert hub.calls == []
