"""The answers of both models on a page: confusion for one label, bars for several."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest
from typing import Any

from ..evaluation import Report, Table, tables
from ..evaluation.classes import ClassScores, Confusions
from .drawing import grouped_bars, heat_panel, panels_svg, short, svg
from .page import Listing, Picture, Section

NUMBERED = 20  # classes up to which every cell of a confusion matrix shows its number
PAIRS = 20  # pairs of classes in the list of what is confused


def answers_section(report: Report) -> list[Section]:
    """Return the section with the picture that suits the answers, and the scores of every label; [] without labels."""
    kind, many = tables.label_kind(report), len(report.labels) > tables.MANY
    if report.per_class is None:
        return []
    listings = [Listing("Precision P, recall R and F1", tables.class_table(report.per_class, kind=kind))]
    pictures = []
    if report.confusion:
        confused = Listing("What is confused", confused_table(report.confusion, report.labels))
        listings = [confused, *listings] if len(report.labels) > NUMBERED else listings
        pictures = [] if many else [_confusions(report.confusion, report.labels)]
    elif not many:
        pictures = [_bars(report.per_class)]
    sentences = [tables.selection_line(report)] if many else []
    return [Section(f"{kind.capitalize()} by {kind}", sentences, pictures, listings)]


def confused_table(confusion: Confusions, names: Sequence[str]) -> Table:
    """Return the pairs of classes that the adapted model confuses most often."""
    wrong = (
        (count, i, j)
        for i, row in enumerate(confusion.adapted)
        for j, count in enumerate(row)
        if count and i != j  # of a million pairs most are never confused
    )
    pairs = nlargest(PAIRS, wrong, key=lambda pair: (pair[0], -pair[1], -pair[2]))
    cells = [[short(names[i]), short(names[j]), f"{confusion.baseline[i][j]:,}", f"{count:,}"] for count, i, j in pairs]
    return Table(["truth", "answer", "rows before", "rows after"], cells)


def _confusions(confusion: Confusions, names: Sequence[str]) -> Picture:
    matrices = {"before": confusion.baseline, "after": confusion.adapted}
    numbered = len(names) <= NUMBERED
    right = {title: sum(row[i] for i, row in enumerate(counts)) for title, counts in matrices.items()}
    words = (
        f"Two confusion matrices of {len(names)} classes, {'in numbers' if numbered else 'by colour'}: truth by row, "
        f"answer by column. On the diagonal {right['before']:,} rows before and {right['after']:,} after."
    )

    def draw(axes: list[Any]) -> None:
        for panel, (title, counts) in zip(axes, matrices.items(), strict=True):
            shares = [[count / max(1, sum(row)) for count in row] for row in counts]
            y = "truth" if title == "before" else ""
            heat_panel(panel, shares, rows=names, columns=names, title=title, x="answer", y=y)
            _numbers(panel, counts if numbered else [])

    cells = [
        [f"{title}: {short(name)}", *(f"{count:,}" for count in row)]
        for title, counts in matrices.items()
        for name, row in zip(names, counts, strict=True)
    ]
    table = Table(["truth \\ answer", *map(short, names)], cells)
    drawn = panels_svg(draw, words=words, panels=2, height=min(7.0, 1.7 + 0.26 * len(names)))
    return Picture("Confusion matrices", drawn, words, table)


def _numbers(axes: Any, counts: Sequence[Sequence[int]]) -> None:
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            axes.text(j + 0.5, i + 0.5, str(count), ha="center", va="center", fontsize=8 if len(counts) <= 8 else 6)


def _bars(scores: ClassScores) -> Picture:
    """Draw F1 of every label, before and after."""
    names = [row.label for row in scores.adapted]
    models = {"before": [row.f1 for row in scores.baseline], "after": [row.f1 for row in scores.adapted]}
    best, worst = (choose(scores.adapted, key=lambda row: row.f1) for choose in (max, min))
    words = (
        f"Bars of F1 of {len(names)} labels, before and after. After, the highest is {best.f1:.4f} "
        f"({best.label}) and the lowest {worst.f1:.4f} ({worst.label})."
    )

    def draw(axes: list[Any]) -> None:
        grouped_bars(axes[0], names, models, x="F1")
        axes[0].set_xlim(0, 1)

    cells = [[short(name), *(f"{f1[i]:.4f}" for f1 in models.values())] for i, name in enumerate(names)]
    drawn = svg(draw, words=words, height=min(12.0, 1 + 0.3 * len(names)))
    return Picture("F1 of every label", drawn, words, Table(["label", *models], cells))
