"""Run trainings in processes of their own: skip finished ones, resume interrupted ones."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from ..errors import ConfigError, LoraScratchError
from ..runs.resume import has_report
from ..runs.run_folder import check_free
from ..runtime.atomic import FREE_SPACE, NOT_WRITTEN, file_errors, read_json, write_json

Process = subprocess.Popen[bytes]
RECORD = "command.json"
MOST_PROCESSES = 4096  # trainings at a time; the same limit as for --threads


def check_same_flags(folder: Path, flags: Sequence[str]) -> None:
    """Record the flags that all trainings under `folder` share, or compare them with the record.

    Raises:
        ConfigError: the folder was begun with other flags, or holds something else.
    """
    is_begun = os.path.exists(folder / RECORD)  # False for an invalid name; Path.exists would raise
    if not is_begun:
        check_free(folder)
    recorded = read_json(folder / RECORD) if is_begun else list(flags)
    if recorded != list(flags):
        is_list = isinstance(recorded, list)
        raise ConfigError(
            f"was begun with {shlex.join(map(str, recorded)) if is_list else repr(recorded)}",
            where=f"--output_dir {folder}",
            expected=f"the same flags, not {shlex.join(flags)}",
            remedy="choose a new folder",
        )
    write_json(folder / RECORD, list(flags))


def train_all(script: Path, runs: Mapping[Path, Sequence[str]], *, processes: int) -> None:
    """Run the script for every run folder without a whole report, `processes` at a time.

    Args:
        runs: the flags by run folder.

    Raises:
        LoraScratchError: a training failed; the others are stopped, and can be resumed.
    """
    missing = [place for place in runs if not has_report(place)]
    running: list[Process] = []
    with (
        ThreadPoolExecutor(processes) as pool,
        tqdm(total=len(runs), initial=len(runs) - len(missing), unit="run") as bar,
    ):
        waiting = [pool.submit(_train, script, place, runs[place], running) for place in missing]
        try:
            for done in as_completed(waiting):
                done.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in running:
                child.terminate()
            raise


def _train(script: Path, place: Path, flags: Sequence[str], running: list[Process]) -> None:
    log = place.with_name(f"{place.name}.log")
    folder = ["--resume", str(place), "--output_dir", str(place)]
    command = [sys.executable, str(script), *flags, *folder]
    with file_errors(log, NOT_WRITTEN, FREE_SPACE):
        log.parent.mkdir(parents=True, exist_ok=True)
        file = log.open("w")
    with file:
        child = subprocess.Popen(command, stdout=file, stderr=file)  # noqa: S603  (our own flags)
        running.append(child)
        status = child.wait()
    if status:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        problem, where = lines[-1].removeprefix("error: "), f"{script.name} for {place}"
        raise LoraScratchError(problem, where=where, remedy=f"{log} has all it said")
