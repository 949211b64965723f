"""A report as tables to read: `render` for the terminal, `render_markdown` for a model card.

Both draw the same tables; only the drawing differs.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 100  # columns of the terminal table, at most
CLASS_KEYS = ("baseline", "adapted", "fixed", "broken")
LABEL_WIDTH = 20  # columns of a label in it; report.json holds the whole label
SCORES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "loss": "loss (nats)"}
LISTED_ROWS = 5  # changed rows of each kind in it; report.json holds more
MODELS = {"baseline": "baseline", "linear_probe": "linear probe", "adapted": "adapted"}


@dataclass(frozen=True)
class Table:
    """Cells as text: a header and rows of as many. The first column stands left, the others right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def render(report: Mapping[str, Any]) -> str:
    """The report as aligned text, at most 100 columns wide: the verdict, scores, slices, some changed rows, parameters."""
    return "\n\n".join(textwrap.fill(part, WIDTH) if "\n" not in part else part for part in _terminal_parts(report))


def render_markdown(report: Mapping[str, Any]) -> str:
    """The same as Markdown, without rows: a model card is published, the data set may not be."""
    return "\n\n".join(_parts(report, markdown_table))


def report_tables(report: Mapping[str, Any]) -> dict[str, Table]:
    """The tables of a report that holds their figures, by name."""
    found = {"scores": _scores(report), "classes": _classes(report), "parameters": _parameters(report)}
    if "difference" in report:
        found |= {"difference": _differences(report["difference"]), "calibration": _calibration(report["calibration"])}
    return found | ({"lengths": _lengths(report["lengths"])} if "lengths" in report else {})


def _parts(report: Mapping[str, Any], draw: Callable[[Table], str]) -> Iterator[str]:
    if "verdict" in report:
        yield report["verdict"]["sentence"]
    yield draw(_scores(report))
    yield mcnemar_line(report)
    if "difference" in report:
        yield draw(_differences(report["difference"]))
        yield draw(_calibration(report["calibration"]))
    if "lengths" in report:
        yield draw(_lengths(report["lengths"]))
    yield "Per class: precision P, recall R and F1 of the baseline and, now, of the adapted model; rows fixed and broken"
    yield draw(_classes(report))
    yield draw(_parameters(report))
    if report["train"] is not None:
        yield training_line(report["train"])


def _terminal_parts(report: Mapping[str, Any]) -> Iterator[str]:
    yield from _parts(report, _aligned)
    for kind, rows in report.get("changed", {}).items():
        if rows:
            shown = f"Rows {kind} ({min(len(rows), LISTED_ROWS)} of {report['mcnemar'][kind]:,})"
            yield "\n".join([shown, *map(_changed, rows[:LISTED_ROWS])])


def _changed(row: Mapping[str, Any]) -> str:
    before, after, label = (_shortened(_printable(row[key])) for key in ("before", "after", "label"))
    answers = f"  {row['row']}: {before} -> {after}" + (f" (truth {label})" if row["after"] != row["label"] else "")
    return answers if row["text"] is None else _shortened(f"{answers}  {_printable(row['text'])}", WIDTH)


def _differences(difference: Mapping[str, Mapping[str, float]]) -> Table:
    rows = [
        [title, *(f"{difference[score][bound]:+.4f}" for bound in ("value", "low", "high"))]
        for score, title in SCORES.items()
    ]
    return Table(["95 % interval", "adapted - baseline", "low", "high"], rows)


def _calibration(found: Mapping[str, Mapping[str, Any]]) -> Table:
    titles = {"baseline": "baseline", "adapted": "adapted"}
    if "tempered" in found:
        titles["tempered"] = f"adapted, T = {found['tempered']['temperature']:.3f}"
    rows = [[title, f"{found[name]['ece']:.4f}", f"{found[name]['brier']:.4f}"] for name, title in titles.items()]
    return Table(["calibration", "ECE", "Brier"], rows)


def _lengths(slices: Iterable[Mapping[str, float]]) -> Table:
    rows = [
        [
            f"{each['shortest']} to {each['longest']} tokens",
            f"{each['n']:,}",
            f"{each['baseline']:.4f}",
            f"{each['adapted']:.4f}",
            f"{each['fixed']:,}",
            f"{each['broken']:,}",
        ]
        for each in slices
    ]
    return Table(["length", "rows", "accuracy before", "accuracy after", "fixed", "broken"], rows)


def _scores(report: Mapping[str, Any]) -> Table:
    models = [name for name in MODELS if name in report]
    rows = [
        [title, *(f"{report[model][score]:.4f}" for model in models), _change(report["baseline"], report["adapted"], score)]
        for score, title in SCORES.items()
    ]
    return Table([f"{report['adapted']['n']:,} rows", *(MODELS[model] for model in models), "adapted - baseline"], rows)


def mcnemar_line(report: Mapping[str, Any]) -> str:
    """The test and its figures as a sentence."""
    found = report["mcnemar"]
    return (
        f"McNemar's exact test, adapted against baseline: {found['fixed']:,} rows fixed, {found['broken']:,} broken, "
        f"{_p_value(found['p_value'])}"
    )


def _p_value(p: float) -> str:
    if p == 0:
        return "p < 1e-300"  # it underflowed
    return f"p = {p:.4f}" if p >= 0.001 else f"p = {p:.1e}"


def _classes(report: Mapping[str, Any]) -> Table:
    found = report["per_class"]
    rows = [
        [
            _printable(before["label"]),
            f"{before['support']:,}",
            *(f"{row[score]:.4f}" for score in ("precision", "recall", "f1") for row in (before, after)),
            _change(before, after, "f1"),
            f"{fixed:,}",
            f"{broken:,}",
        ]
        for before, after, fixed, broken in zip(*(found[key] for key in CLASS_KEYS), strict=True)
    ]
    scores = [f"{score}{when}" for score in ("P", "R", "F1") for when in ("", " now")]
    return Table(["class", "rows", *scores, "change", "fixed", "broken"], rows)


def _change(before: Mapping[str, float], after: Mapping[str, float], score: str) -> str:
    return f"{after[score] - before[score]:+.4f}"


def _parameters(report: Mapping[str, Any]) -> Table:
    counts = report["parameters"]
    names = {"total": "all", "trainable": "trained"}
    if counts["lora"]:  # else there is no adapter to tell apart
        names |= {"lora": "trained: LoRA", "head": "trained: head"}
    if counts.get("bias"):
        names["bias"] = "trained: biases"
    rows = [[title, f"{counts[key]:,}", f"{100 * counts[key] / counts['total']:.2f} %"] for key, title in names.items()]
    return Table(["parameters", "number", "of all"], rows)


def training_line(train: Mapping[str, float]) -> str:
    """What the training took, as a sentence."""
    return (
        f"Training: {train['examples']:,.0f} examples ({train['tokens']:,.0f} tokens), {train['seconds']:,.1f} s, "
        f"{train['examples_per_second']:,.1f} examples/s, peak memory {train['peak_memory_bytes'] / 2**30:.2f} GiB"
    )


def _aligned(table: Table) -> str:
    cells = [[_shortened(row[0]), *row[1:]] for row in (table.header, *table.rows)]
    widths = [max(map(_columns, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(_padded(cell, width, left=not i) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(table: Table) -> str:
    """The table as Markdown, with whatever Markdown would read as its own escaped."""
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (table.header, rule, *_escaped(table.rows)))


def _escaped(rows: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    for row in rows:
        yield [re.sub(r"([\\|<*_`\[])", r"\\\1", cell) for cell in row]  # a label is text, whatever is in it


def _printable(label: str) -> str:
    """The label on one line, whatever characters the data set has in it."""
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in label)


def _columns(text: str) -> int:
    """Terminal columns: East Asian wide characters take two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)


def _shortened(text: str, width: int = LABEL_WIDTH) -> str:
    if len(text) <= 2 * width and _columns(text) <= width:
        return text
    text = text[: 2 * width]  # more letters than this only if most take no column; a row may hold megabytes
    while _columns(text) > width - 3:
        text = text[:-1]
    return text + "..."


def _padded(cell: str, width: int, *, left: bool) -> str:
    space = " " * (width - _columns(cell))
    return cell + space if left else space + cell
