"""Runs all measurements. Rounds are interleaved: a machine that slows down slows all alike."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from .figures import Figure
from .idle import look
from .process import in_a_process

OURS = "ours"  # the names of our contenders begin with it
Task = tuple[str, str]  # a measure and a contender


def run_rounds(
    tasks: Sequence[Task],
    command: Sequence[str],
    *,
    rounds: int,
    flags_of_ours: Sequence[str] = (),
) -> list[Figure]:
    """Run every task once a round, in a fresh process: `command --only measure:contender`.

    So peak memory is that of one measurement, and nothing is warm for the next one.

    Args:
        flags_of_ours: flags for our contenders alone, after those of `command`.

    Raises:
        LoraScratchError: a process failed; the message has the last line of its output.
    """
    figures = []
    order = [(number, *task) for number in range(rounds) for task in tasks]
    bar = tqdm(order, desc="benchmark", unit="measure")
    for number, measure, contender in bar:
        bar.set_postfix_str(f"{measure} {contender}")
        machine = look()
        own = flags_of_ours if contender.startswith(OURS) else ()
        values = in_a_process([*command, *own, "--only", f"{measure}:{contender}"])
        figures.append(Figure(measure, contender, number, values, machine))
    return figures
