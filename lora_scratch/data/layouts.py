"""Know the columns of files that many people have: those of GLUE, as its archive and the hub have them.

The archive's files are tab files that are never quoted. All but CoLA's have a header. A layout is taken
where no column was named and the names of the header fit it, and a line says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from .cells import number_of
from .columns import BY_DEFAULT, Columns

LAYOUTS = {
    "MRPC": Columns("#1 String", "Quality", "#2 String"),
    "QQP": Columns("question1", "is_duplicate", "question2"),
    "QQP of the hub": Columns("question1", "label", "question2"),
    "MNLI": Columns("sentence1", "gold_label", "sentence2"),
    "MNLI of the hub": Columns("premise", "label", "hypothesis"),
    "STS-B": Columns("sentence1", "score", "sentence2"),
    "QNLI": Columns("question", "label", "sentence"),
    "RTE and WNLI": Columns("sentence1", "label", "sentence2"),
    "SST-2 and CoLA": Columns("sentence", "label"),
}
COLA = ("source", "label", "star", "sentence")  # what CoLA's own description calls its columns
MOST_WORDS = 3  # of a name of a column; a text has more
MRPC_TEXTS = "msr_paraphrase_"  # MRPC as Microsoft distributes it: a tab file that is called .txt
# MNLI's two halves of a split, which its figures count together
TOGETHER = [{f"{split}_matched", f"{split}_mismatched"} for split in ("validation", "dev", "test")]


def fitting_layout(names: Sequence[str], columns: Columns) -> tuple[Columns, str]:
    """Return the columns to read of a table with these columns, and a line that says why if they are not `columns`."""
    if columns != BY_DEFAULT or columns.text in names:
        return columns, ""
    fitting = [(name, layout) for name, layout in LAYOUTS.items() if set(layout.names) <= set(names)]
    most = max((len(layout.names) for _, layout in fitting), default=0)
    chosen = [(name, layout) for name, layout in fitting if len(layout.names) == most]
    if len(chosen) != 1:
        return columns, ""
    [(name, layout)] = chosen
    second = "" if layout.pair is None else f", second text {layout.pair!r}"
    return layout, f"columns as in GLUE's {name}: text {layout.text!r}{second}, label {layout.label!r}"


def is_cola(fields: Sequence[str]) -> bool:
    """Return whether the fields are a row of CoLA, which has no header: `gj04`, `1`, nothing or `*`, the sentence."""
    return len(fields) == len(COLA) and fields[1] in ("0", "1") and fields[2] in ("", "*")


def looks_like_a_row(names: Sequence[str]) -> bool:
    """Return whether what should be names of columns looks like a row: numbers, empty cells, whole sentences.

    The first name can be empty: so pandas calls its index.
    """
    if not all(name.strip() for name in names[1:]):
        return True
    return any(number_of(name.strip()) is not None or len(name.split()) > MOST_WORDS for name in names)
