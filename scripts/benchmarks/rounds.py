"""Runs all measurements. Rounds are interleaved: a machine that slows down slows all alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tqdm import tqdm

from .figures import Figure
from .idle import look
from .process import in_a_process

OURS, FULL = "ours", "full"  # the names of our contenders, and of full fine-tuning, begin with it
JOB = "job"  # the measure of which every round has a seed of its own
Task = tuple[str, str]  # a measure and a contender


def run_rounds(
    tasks: Sequence[Task],
    command: Sequence[str],
    *,
    rounds: int,
    flags_of: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> list[Figure]:
    """Run every task once a round, in a fresh process: `command --only measure:contender`.

    So peak memory is that of one measurement, and nothing is warm for the next one.

    Args:
        flags_of: flags for the contenders whose name begins with the key, after those of `command`.
        seed: of the first round of `job`; the next round has the next one.

    Raises:
        LoraScratchError: a process failed; the message has the last line of its output.
    """
    figures = []
    order = [(number, *task) for number in range(rounds) for task in tasks]
    bar = tqdm(order, desc="benchmark", unit="measure")
    for number, measure, contender in bar:
        bar.set_postfix_str(f"{measure} {contender}")
        machine = look()
        own = [flag for start, flags in (flags_of or {}).items() if contender.startswith(start) for flag in flags]
        own += ["--seed", str(seed + number)] if measure == JOB else []
        values = in_a_process([*command, *own, "--only", f"{measure}:{contender}"])
        figures.append(Figure(measure, contender, number, values, machine))
    return figures
