"""The measures of a run in their order: rounds are interleaved, so that a machine that slows down slows all alike."""

from __future__ import annotations

from collections.abc import Sequence

from lora_scratch.commands.benchmarks.figures import Figure
from lora_scratch.commands.benchmarks.idle import look
from lora_scratch.commands.benchmarks.process import in_a_process
from tqdm import tqdm

OURS = "ours"  # the names of contenders that are ours begin so
Task = tuple[str, str]  # a measure and a contender


def run_rounds(
    tasks: Sequence[Task], command: Sequence[str], *, rounds: int, flags_of_ours: Sequence[str] = ()
) -> list[Figure]:
    """Every task once a round, each in a fresh process: `command` and `--only measure:contender`.

    A process of its own makes peak memory honest, and leaves nothing warm for the next one.

    Args:
        flags_of_ours: for contenders of ours alone, after those of `command`.

    Raises:
        LoraScratchError: a process that failed, with the last line of what it said.
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
