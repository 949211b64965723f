"""The rows that a run fixed and broke, from its report.json."""

from __future__ import annotations

from typing import Any

from ..errors import LoraScratchError
from ..evaluation import Report
from ..evaluation.verdict import ChangedRow
from ..runs.trained_adapter import TrainedAdapter

BETWEEN = " | "  # what a report writes between the two texts of a pair


def changed_rows(saved: TrainedAdapter) -> dict[str, Any]:
    """Return the rows fixed and broken of the run that wrote the adapter, and a note where there are none.

    A pair whose texts can't be told apart, since they hold the mark between them, is left out.
    """
    words, path = saved.task.row_words, saved.folder.parent / "report.json"
    if not path.is_file():
        return {"words": words, "lists": [[], []], "note": "there is no report.json beside this adapter"}
    try:
        report = Report.read(path)
    except LoraScratchError as error:
        return {"words": words, "lists": [[], []], "note": f"the rows of the run can't be shown: {error}"}
    pairs = saved.provenance.data.pair_column is not None
    lists = [_listed(rows, pairs=pairs) for rows in (report.changed.fixed, report.changed.broken)]
    return {"words": words, "lists": lists, "note": ""}


def _listed(rows: list[ChangedRow], *, pairs: bool) -> list[dict[str, Any]]:
    sides = [(row, (row.text or "").split(BETWEEN) if pairs else [row.text or ""]) for row in rows]
    return [
        {"row": row.row, "label": row.label, "before": row.before, "after": row.after, "texts": texts}
        for row, texts in sides
        if row.text and len(texts) == 1 + pairs
    ]
