"""The table at the end, the lines that name skipped rows, and whether the run is accepted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lora_scratch.evaluation import Table, markdown_table

from .finding import FAILED, SKIPPED, SMALL_FORM, Result


def line_of(result: Result) -> str:
    """Return one line for a part that is done: `skipped: memory: no GPU`."""
    seconds = f" ({result.seconds:.1f} s)" if result.seconds else ""
    return f"{result.status}: {result.part}: {result.line}{seconds}"


def render_results(results: Sequence[Result]) -> str:
    """Return a table with a row for each part."""
    header = ["part", "kind", "result", "s", "finding"]
    return markdown_table(Table(header, [_row(result) for result in results]))


def remarks(results: Sequence[Result]) -> Iterator[str]:
    """Yield a line for each row that was skipped, and one for the parts that ran in small form."""
    for result in results:
        yield from (f"skipped: {result.part}: {row}" for row in result.skipped)
    small = [result.part for result in results if result.status == SMALL_FORM]
    if small:
        yield f"not proven and not judged, since there is no GPU: {', '.join(small)}"


def verdict(results: Sequence[Result]) -> str:
    """Return one line: accepted, not accepted, or nothing could be judged."""
    failed = [result.part for result in results if result.status == FAILED]
    if failed:
        return f"NOT ACCEPTED: {', '.join(failed)}"
    judged = [result for result in results if result.status not in (SKIPPED, SMALL_FORM)]
    if not judged:
        return "nothing was judged: no GPU"
    return f"accepted: {len(judged)} of {len(results)} parts"


def is_accepted(results: Sequence[Result]) -> bool:
    """Return whether no proof and no gate failed."""
    return all(result.status != FAILED for result in results)


def _row(result: Result) -> list[str]:
    line = result.line.replace("|", "/")
    return [result.part, result.kind, result.status, f"{result.seconds:.1f}", line]
