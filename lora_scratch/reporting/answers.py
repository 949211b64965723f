"""The answers of both models on a page: confusion for one label, bars for several, points for a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..evaluation import Report, Table, tables
from ..evaluation.classes import ClassScores, Confusions, Points
from .drawing import INK, grouped_bars, heat_panel, short, svg
from .page import Listing, Picture, Section

NUMBERED = 20  # classes up to which every cell of a confusion matrix shows its number


def answers_section(report: Report) -> Section:
    """Return the section with the picture that suits the answers, and the scores of every label."""
    kind, listings = tables.label_kind(report), []
    title = f"{kind.capitalize()} by {kind}"
    if report.per_class:
        listings = [Listing("Precision P, recall R and F1", tables.class_table(report.per_class, kind=kind))]
    if report.points:
        return Section("Answer and truth", (), [_scatter(report.points, report.labels[0])])
    if report.confusion:
        return Section(title, (), [_confusions(report.confusion, report.labels)], listings)
    return Section(title, (), [_bars(report.per_class)] if report.per_class else [], listings)


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
    drawn = svg(draw, words=words, panels=2, height=min(8.0, 1.9 + 0.28 * len(names)))
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


def _scatter(points: Points, name: str) -> Picture:
    """Draw the answers over the truth, before and after."""
    models = {"before": points.baseline, "after": points.adapted}
    low, high = min(points.label), max(points.label)
    words = (
        f"Two scatter plots of {len(points.label):,} rows: the true {name}, from {low:.4g} to {high:.4g}, "
        "across, and the answer upwards, before and after; a perfect answer is on the dashed diagonal."
    )

    def draw(axes: list[Any]) -> None:
        for panel, (title, answers) in zip(axes, models.items(), strict=True):
            panel.plot(points.label, answers, ".", alpha=0.4)
            panel.plot([low, high], [low, high], "--", color=INK, alpha=0.6)
            panel.set(title=title, xlabel=f"true {short(name)}", ylabel="answer" if title == "before" else "")

    columns = zip(points.label, points.baseline, points.adapted, strict=True)
    cells = [[f"{number:.4g}" for number in row] for row in columns]
    drawn = svg(draw, words=words, panels=2, height=3.6)
    return Picture("Answers over the truth", drawn, words, Table(["truth", *models], cells))
