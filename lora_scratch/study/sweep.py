"""Trainings as processes of their own, some at a time. What is finished is not run again; what was stopped goes on."""

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
from ..runs.resume import REPORT
from ..runs.run_folder import check_free
from ..runtime.atomic import read_json, write_json

RECORD = "command.json"
MOST_PROCESSES = 4096  # trainings at a time; as many as --threads may be


def check_same_flags(folder: Path, flags: Sequence[str]) -> None:
    """Note the flags that all trainings under `folder` share.

    Raises:
        ConfigError: it was begun with others, or holds something else.
    """
    is_begun = os.path.exists(folder / RECORD)  # false for a name that can't be, which Path.exists raises
    if not is_begun:
        check_free(folder)
    begun = read_json(folder / RECORD) if is_begun else list(flags)
    if begun != list(flags):
        raise ConfigError(
            f"was begun with {shlex.join(map(str, begun)) if isinstance(begun, list) else repr(begun)}",
            where=f"--output_dir {folder}",
            expected=f"the same flags, not {shlex.join(flags)}",
            remedy="choose a new folder",
        )
    write_json(folder / RECORD, list(flags))


def train_all(script: Path, wanted: Mapping[Path, Sequence[str]], *, processes: int) -> None:
    """Run the script of every run folder in `wanted`, with its flags, that has no report yet; `processes` at a time.

    Raises:
        LoraScratchError: one failed; the others that run are stopped, and can go on later.
    """
    missing = [place for place in wanted if not (place / REPORT).exists()]
    running: list[subprocess.Popen[bytes]] = []
    with (
        ThreadPoolExecutor(processes) as pool,
        tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="run") as bar,
    ):
        waiting = [pool.submit(_train, script, place, wanted[place], running) for place in missing]
        try:
            for done in as_completed(waiting):
                done.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in running:
                child.terminate()
            raise


def _train(script: Path, place: Path, flags: Sequence[str], running: list[subprocess.Popen[bytes]]) -> None:
    output = place.with_name(f"{place.name}.log")
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(script), *flags, "--resume", str(place), "--output_dir", str(place)]
    with output.open("w") as file:
        child = subprocess.Popen(command, stdout=file, stderr=file)  # noqa: S603  (our own flags)
        running.append(child)
        status = child.wait()
    if status:
        lines = output.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise LoraScratchError(
            lines[-1].removeprefix("error: "), where=f"{script.name} for {place}", remedy=f"{output} has all it said"
        )
