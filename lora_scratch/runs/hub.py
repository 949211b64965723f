"""Adapters on the Hugging Face hub: `hub:owner/name`, or `hub:owner/name@revision`.

With the prefix a mistyped path never leads to the network. The four files of an adapter folder are
transferred. The token is huggingface_hub's own (`hf auth login`, or HF_TOKEN).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import AdapterFileError
from ..runtime.paths import path_fault, shown_path
from ..serialization.adapter_folder import CARD, CONFIG, PROVENANCE, WEIGHTS
from .card_metadata import with_metadata

PREFIX = "hub:"
FILES = [WEIGHTS, CONFIG, PROVENANCE, CARD]
LOG = "metrics.jsonl"  # in every folder of a run
BASE = "base_model_name_or_path"
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
ANSWERS = {  # what an HTTP status means here, and what to do
    400: ("the hub refuses it", "correct what it names"),
    401: ("the hub does not accept the token, or there is no such repository", LOG_IN),
    403: ("the token may not do this there", "use a token with the right to write, and a namespace that is yours"),
    404: ("there is no such repository, or the token may not see it", f"check the name, or {LOG_IN}"),
    409: ("the name is taken, or another upload is in progress", "choose another name, or try again"),
    429: ("the hub gets too many requests", "try again in some minutes"),
}
SECRET = re.compile(r"hf_\w+|Bearer [^'\"\s]+")


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
    elif (folder / "model").is_dir():
        fault, remedy = "this run trained no adapter", f"its model is {folder / 'model'}: name it with --model"
    else:
        fault, remedy = "this run has no adapter yet", f"resume it: lora-scratch train --resume {folder}"
    raise AdapterFileError([fault], where=str(folder), expected="an adapter folder", remedy=remedy)


def push_adapter(folder: Path, name: str, *, public: bool = False, metadata: Mapping[str, Any] | None = None) -> str:
    """Upload the adapter `folder` to `hub:owner/name`, in one commit. Return the address of the commit.

    Args:
        public: make a new repository public. One that exists stays as it is.
        metadata: entries for the head of the card; None takes one out. The folder itself does not change.
            The base in adapter_config.json is that of `base_model`, if it is named.

    Raises:
        AdapterFileError: no complete adapter folder, or the hub does not take it.
    """
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
    if missing:
        raise AdapterFileError([f"no {' and no '.join(missing)}"], where=str(folder), expected="an adapter folder")
    repository = name.removeprefix(PREFIX)
    if repository.count("/") != 1:
        raise AdapterFileError(["this is no name of a repository"], where=name, expected="owner/name")
    files = _contents(folder, metadata or {}, model_name=repository.partition("/")[2])
    from huggingface_hub import CommitOperationAdd, HfApi  # as above

    hub, operations = HfApi(), [CommitOperationAdd(file, content) for file, content in files.items()]
    try:
        hub.create_repo(repository, private=not public, exist_ok=True)
        commit = hub.create_commit(repository, operations, commit_message="LoRA adapter by lora-scratch")
    except Exception as error:  # as above
        raise _failed("could not be uploaded", name, error) from error
    return str(commit.commit_url)


def _contents(folder: Path, metadata: Mapping[str, Any], *, model_name: str) -> dict[str, bytes]:
    """Return what is uploaded, by file name: the folder's files, with the base and the metadata that others read."""
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    if base := metadata.get("base_model"):
        config = {**json.loads(files[CONFIG]), BASE: base}
        files[CONFIG] = json.dumps(config, indent=2, sort_keys=True).encode()
    try:
        card = files.get(CARD, b"").decode()
        files[CARD] = with_metadata(card, model_name=model_name, **metadata).encode()
    except ValueError as error:
        remedy = "correct README.md, or remove it"
        raise AdapterFileError([str(error)], where=str(folder / CARD), remedy=remedy) from error
    return files


def _failed(problem: str, name: str, error: Exception) -> AdapterFileError:
    """Return the error of a transfer: what the hub's status means, or else what the client says."""
    status = next((code for each in _chain(error) if (code := _status(each))), 0)
    fault, remedy = ANSWERS.get(status, ("", "check the connection and the name; `hf auth login` or HF_TOKEN gives a token"))
    if status >= 500:
        fault, remedy = "the hub is out of order", "try again later"
    shown = f"{fault}: {status}" if fault and status != 400 else _reason(error)
    return AdapterFileError([f"{problem} ({shown})"], where=name, expected=f"{PREFIX}owner/name on the hub", remedy=remedy)


def _reason(error: Exception) -> str:
    """Return what the client says and why, on one line, without the token."""
    from huggingface_hub import get_token

    if isinstance(error, UnicodeEncodeError):  # of a header; the files are bytes by now
        return "the token has a character that no token has"
    if isinstance(error, KeyError):
        return f"the hub's answer has no {error}"
    said = [str(each) for each in _chain(error)]
    text = " ".join(" ".join(dict.fromkeys((said[0], said[-1]))).split())[:400]
    own = (get_token() or "").strip()
    return SECRET.sub("[token]", text.replace(own, "[token]") if own else text)[:200] or type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes: an upload in parts wraps the answer of the hub."""
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int:
    """Return the HTTP status of an error of the client, or 0. That of the Xet client stands in its text."""
    told = re.search(r"HTTP status \w+ error \((\d{3})", str(error))
    return int(getattr(getattr(error, "response", None), "status_code", 0) or (told[1] if told else 0))
