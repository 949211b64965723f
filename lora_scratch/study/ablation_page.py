"""The page of an ablation: the loss and the share of every part, and the score by strength."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..evaluation import Table
from ..reporting.anatomy import module_map
from ..reporting.drawing import Line, bar_panel, line_panel, panels_svg, svg
from ..reporting.page import Listing, Page, Picture, Section
from .ablation import LAYER, MODULE, ONLY, PROJECTION, STRENGTH, WITHOUT, Ablation, Trial, describe

Trials = Sequence[Trial]


def ablation_page(ablation: Ablation, *, title: str, table: Table, source: str = "") -> Page:
    """Return the page of an ablation, with `table` as the list of all trials."""
    trials = ablation.trials
    modules = [trial for trial in trials if trial.group == MODULE]
    groups = [trial for trial in trials if trial.group in (PROJECTION, LAYER)]
    strengths = [trial for trial in trials if trial.kind == STRENGTH]
    drawings = ((modules, loss_map), (groups, part_bars), (strengths, strength_curve))
    pictures = [draw(shown, score=ablation.score) for shown, draw in drawings if shown]
    words = (
        f"Every trial is compared with the whole adapter on the same rows: {ablation.test_title}, and "
        f"Holm's correction over all {len(trials)} trials. Losses need not add up: one part can "
        "do the work of another, or need it."
    )
    listing = Listing("Every trial", table)
    section = Section("What carries the gain", [words], pictures, [listing])
    return Page(title, (_largest_loss(ablation), describe(ablation)), [section], source)


def _largest_loss(ablation: Ablation) -> str:
    removed = [trial for trial in ablation.trials if trial.kind == WITHOUT]
    worst = min(removed, key=lambda trial: trial.test.change)
    return f"Without {worst.title}: {100 * worst.test.change:+.2f} points of {ablation.score}"


def loss_map(trials: Trials, *, score: str) -> Picture:
    """Draw the points (hundredths) of the score that are lost without each module."""
    values = {trial.name: -100 * trial.test.change for trial in trials}
    meaning = f"the points of {score} lost without each module's update"
    title = f"Without one module: points of {score} lost"
    return module_map(values, title=title, meaning=meaning, number=".2f")


def part_bars(trials: Trials, *, score: str) -> Picture:
    """Draw the score without each projection and layer, and with only that one."""
    sides = {WITHOUT: f"{score} without it", ONLY: f"{score} with only it"}
    scores: dict[str, dict[str, float]] = {WITHOUT: {}, ONLY: {}}
    for trial in trials:
        scores[trial.kind][trial.title] = trial.test.score
    rows = [(part, value, scores[ONLY][part]) for part, value in scores[WITHOUT].items()]
    start = f"Bars of the {score} without each projection or layer, and with only that one"
    words = f"{start}: " + ", ".join(f"{part} {a:.4f} and {b:.4f}" for part, a, b in rows)

    def draw(axes: list[Any]) -> None:
        """Draw a panel for each side."""
        for panel, (kind, label) in zip(axes, sides.items(), strict=True):
            bar_panel(panel, scores[kind], x=label)
            panel.set_xlim(min(0.0, *scores[kind].values()), 1)

    cells = [[part, f"{lost:.4f}", f"{kept:.4f}"] for part, lost, kept in rows]
    drawn = panels_svg(draw, words=words, panels=2, height=1 + 0.28 * len(rows))
    title = "Without one part, and with only that"
    return Picture(title, drawn, words, Table(["part", *sides], cells))


def strength_curve(trials: Trials, *, score: str) -> Picture:
    """Draw the score over the strength of the adapter."""
    x, y = [float(trial.name) for trial in trials], [trial.test.score for trial in trials]
    bounds = f"from {min(x):g} to {max(x):g}"
    words = f"Curve of the {score} over the strength of the adapter, {bounds}; 1 is as trained."

    def draw(axes: list[Any]) -> None:
        """Draw one line."""
        label = "strength (1 as trained)"
        line_panel(axes[0], [Line(score, x, y)], title="", x=label, y=score)

    cells = [[f"{strength:g}", f"{value:.4f}"] for strength, value in zip(x, y, strict=True)]
    table = Table(["strength", score], cells)
    return Picture("Weaker and stronger", svg(draw, words=words), words, table)
