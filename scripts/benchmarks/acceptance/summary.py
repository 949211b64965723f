"""The table at the end, the lines that name what was skipped, and whether the run is accepted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lora_scratch.commands.benchmarks.acceptance.finding import FAILED, SKIPPED, SMALL_FORM, Result

from lora_scratch.evaluation import Table, markdown_table


def line_of(result: Result) -> str:
    """One line for a part as soon as it is done: `skipped: memory: no GPU`."""
    seconds = f" ({result.seconds:.1f} s)" if result.seconds else ""
    return f"{result.status}: {result.part}: {result.line}{seconds}"


def render_results(results: Sequence[Result]) -> str:
    """A row for each part."""
    rows = [[each.part, each.kind, each.status, f"{each.seconds:.1f}", _cell(each.line)] for each in results]
    return markdown_table(Table(["part", "kind", "result", "s", "found"], rows))


def remarks(results: Sequence[Result]) -> Iterator[str]:
    """Lines for what the table does not judge: rows that were skipped, and parts that ran in small form."""
    for result in results:
        yield from (f"skipped: {result.part}: {row}" for row in result.skipped)
    small = [each.part for each in results if each.status == SMALL_FORM]
    if small:
        yield f"not proven and not judged, since there is no GPU: {', '.join(small)}"


def verdict(results: Sequence[Result]) -> str:
    """One line: accepted, not accepted, or nothing that could be judged."""
    failed = [each.part for each in results if each.status == FAILED]
    if failed:
        return f"NOT ACCEPTED: {', '.join(failed)}"
    judged = [each for each in results if each.status not in (SKIPPED, SMALL_FORM)]
    return f"accepted: {len(judged)} of {len(results)} parts" if judged else "nothing was judged: no GPU"


def is_accepted(results: Sequence[Result]) -> bool:
    """Whether no proof and no gate failed."""
    return all(each.status != FAILED for each in results)


def _cell(text: str) -> str:
    return text.replace("|", "/")
