"""Adapters on the Hugging Face hub: `hub:owner/name`, or `hub:owner/name@revision`.

With the prefix a mistyped path never leads to the network. The four files of an adapter folder are
transferred. The token is huggingface_hub's own (`hf auth login`, or HF_TOKEN).
"""

from __future__ import annotations

from pathlib import Path

from ..errors import AdapterFileError
from ..runtime.paths import path_fault, shown_path
from ..serialization.adapter_folder import CARD, CONFIG, PROVENANCE, WEIGHTS

PREFIX = "hub:"
FILES = [WEIGHTS, CONFIG, PROVENANCE, CARD]
LOG = "metrics.jsonl"  # in every folder of a run


def local_adapter(name: str | Path) -> Path:
    """Return the folder called `name`, or the download of a name on the hub.

    Raises:
        AdapterFileError: there is no such folder, or the hub does not give it.
    """
    if not str(name).startswith(PREFIX):
        return _existing(Path(name))
    repository, _, revision = str(name).removeprefix(PREFIX).partition("@")
    from huggingface_hub import snapshot_download  # a slow import, which local folders do not need

    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=FILES))
    except Exception as error:  # the client, its validation and the transport raise different types
        raise _failed("could not be fetched", str(name), error) from error


def _existing(folder: Path) -> Path:
    """Return the folder, unless it is a file, a run's folder, or not there."""
    if bad_path := path_fault(folder):
        raise AdapterFileError([bad_path.found], where=shown_path(folder), expected=bad_path.expected)
    if folder.is_file():
        fault, remedy = "this is a file", f"name the folder that it lies in: {folder.parent}"
    elif not folder.is_dir():
        fault, remedy = "no such folder", "`lora-scratch train` writes one, to OUTPUT_DIR/adapter"
    elif not (folder / LOG).exists():
        return folder
    elif (folder / "adapter").is_dir():
        fault, remedy = "this is the folder of a run", f"its adapter is {folder / 'adapter'}"
    else:
        fault, remedy = "this run has no adapter yet", f"resume it: lora-scratch train --resume {folder}"
    raise AdapterFileError([fault], where=str(folder), expected="an adapter folder", remedy=remedy)


def push_adapter(folder: Path, name: str, *, public: bool = False) -> str:
    """Upload the adapter `folder` to `hub:owner/name`. Return the address of the commit.

    Args:
        public: make a new repository public. One that exists stays as it is.

    Raises:
        AdapterFileError: no complete adapter folder, or the hub does not take it.
    """
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
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


def _failed(problem: str, name: str, error: Exception) -> AdapterFileError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return AdapterFileError(
        [f"{problem} ({reason})"],
        where=name,
        expected=f"{PREFIX}owner/name, a hub that answers, and a token that may",
        remedy="log in with `hf auth login`, or name a local folder",
    )
