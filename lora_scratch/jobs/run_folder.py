"""The folder of a run: one run, one folder, never written over."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError, LoraScratchError


def new_run_folder(wanted: str | None, *, job: str) -> Path:
    """Create `wanted`, or the first of checkpoints/<job>, checkpoints/<job>-2, ... that is not there yet.

    Raises:
        ConfigError: `wanted` holds files already. LoraScratchError: it can't be created.
    """
    if wanted is not None:
        return _create(check_free(Path(wanted)))
    number = 1
    while (folder := Path("checkpoints") / (job if number == 1 else f"{job}-{number}")).exists():
        number += 1
    return _create(folder)


def check_free(folder: Path, *, flag: str = "--output_dir") -> Path:
    """`folder` itself, if it is absent or empty.

    Raises:
        ConfigError: it holds files, or is a file.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError("holds files already", where=f"{flag} {folder}", remedy="choose a new folder, or remove this one")
    return folder


def _create(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoraScratchError(
            f"could not be created ({error.strerror})", where=f"--output_dir {folder}", remedy="choose another folder"
        ) from error
    return folder
