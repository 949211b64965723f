"""Adapters on the Hugging Face hub: `hub:owner/name`, or `hub:owner/name@revision`, wherever an adapter folder is named.

The prefix is there so that a mistyped path never asks the network. What travels are the four files of an adapter folder, the
model card with the figures on the test rows among them; the token is huggingface_hub's own (`hf auth login`, or HF_TOKEN).
"""

from __future__ import annotations

from pathlib import Path

from ..errors import AdapterFileError
from ..runtime.paths import path_fault, shown_path
from ..serialization.adapter_folder import CARD, CONFIG, PROVENANCE, WEIGHTS

PREFIX = "hub:"
FILES = [WEIGHTS, CONFIG, PROVENANCE, CARD]
LOG = "metrics.jsonl"  # what a run's folder has from its beginning


def local_adapter(name: str | Path) -> Path:
    """The folder called `name`, or, of a name on the hub, the folder where its files lie now.

    Raises:
        AdapterFileError: there is no such folder, or it can't be had from the hub.
    """
    if not str(name).startswith(PREFIX):
        return _existing(Path(name))
    repository, _, revision = str(name).removeprefix(PREFIX).partition("@")
    from huggingface_hub import snapshot_download  # a slow import, and local folders do without it

    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=FILES))
    except Exception as error:  # of the hub client, of its validation and of the transport below it alike
        raise _failed("could not be fetched", str(name), error) from error


def _existing(folder: Path) -> Path:
    """The folder itself; a run's folder, and none at all, are mistaken for an adapter's most often."""
    if fault := path_fault(folder):
        raise AdapterFileError([fault.found], where=shown_path(folder), expected=fault.expected)
    if folder.is_file():
        found, remedy = "this is a file", f"name the folder that it lies in: {folder.parent}"
    elif not folder.is_dir():
        found, remedy = "no such folder", "`lora-scratch train` writes one, to OUTPUT_DIR/adapter"
    elif not (folder / LOG).exists():
        return folder
    elif (folder / "adapter").is_dir():
        found, remedy = "this is the folder of a run", f"its adapter is {folder / 'adapter'}"
    else:
        found, remedy = "this run has no adapter yet", f"resume it: lora-scratch train --resume {folder}"
    raise AdapterFileError([found], where=str(folder), expected="an adapter folder", remedy=remedy)


def push_adapter(folder: Path, name: str, *, public: bool = False) -> str:
    """Upload the adapter `folder` to `hub:owner/name`, which is made if it is not there yet; the address of the commit.

    Args:
        public: a repository that is made here can be seen by everybody; one that is there stays what it is.

    Raises:
        AdapterFileError: no complete adapter folder, or the hub does not take it.
    """
    missing = [each for each in (WEIGHTS, CONFIG) if not (folder / each).is_file()]
    if missing:
        raise AdapterFileError([f"no {' and no '.join(missing)}"], where=str(folder), expected="an adapter folder")
    repository = name.removeprefix(PREFIX)
    from huggingface_hub import HfApi  # as above

    hub = HfApi()
    try:
        hub.create_repo(repository, private=not public, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=FILES, commit_message="LoRA adapter by lora-scratch"
        )
    except Exception as error:  # as above
        raise _failed("could not be uploaded", name, error) from error
    return str(commit.commit_url)


def _failed(what: str, name: str, error: Exception) -> AdapterFileError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return AdapterFileError(
        [f"{what} ({reason})"],
        where=name,
        expected=f"{PREFIX}owner/name, a hub that answers, and a token that may",
        remedy="log in with `hf auth login`, or name a local folder",
    )
