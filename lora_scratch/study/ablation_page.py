"""What carries an adapter's gain, as pictures: what each part costs and keeps, and the dial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation import Table
from ..reporting.anatomy import module_map
from ..reporting.drawing import Line, bar_panel, line_panel, svg
from ..reporting.page import Listing, Page, Picture, Section

Trials = Sequence[Mapping[str, Any]]


def ablation_page(found: Mapping[str, Any], *, title: str, answer: str, table: Table, source: str = "") -> Page:
    """The page of an ablation; `found` is what its JSON holds, `answer` and `table` what the script prints."""
    trials = found["trials"]
    modules = [trial for trial in trials if trial["group"] == "module"]
    groups = [trial for trial in trials if trial["group"] in ("projection", "layer")]
    strengths = [trial for trial in trials if trial["what"] == "strength"]
    pictures = [draw(each) for each, draw in ((modules, losses), (groups, groupwise), (strengths, dial)) if each]
    words = (
        "Every trial is compared with the whole adapter on the same rows: exact McNemar, and Holm's correction over all "
        f"{len(trials)} trials. Losses need not add up: one part can do the work of another, or need it."
    )
    section = Section("What carries the gain", [words], pictures, [Listing("Every trial", table)])
    return Page(title, (_most_missed(trials), answer), [section], source)


def _most_missed(trials: Trials) -> str:
    """The part without which most is lost."""
    parts = [trial for trial in trials if trial["what"] == "without"]
    if not parts:
        return f"{len(trials)} trials"
    worst = min(parts, key=lambda trial: trial["found"]["change"])
    return f"Without {_called(worst)}: {100 * worst['found']['change']:+.2f} points"


def losses(trials: Trials) -> Picture:
    """Points of accuracy lost without each module."""
    values = {trial["name"]: -100 * trial["found"]["change"] for trial in trials}
    meaning = "the points of accuracy lost without each module's update"
    return module_map(values, title="Without one module: points of accuracy lost", meaning=meaning, number=".2f")


def groupwise(trials: Trials) -> Picture:
    """Accuracy without each projection and layer, and with only that one."""
    sides = ("without", "only")
    found = {side: {_called(each): each["found"]["accuracy"] for each in trials if each["what"] == side} for side in sides}
    words = "Bars of the accuracy without each projection or layer, and with only that one: " + ", ".join(
        f"{name} {value:.4f} and {found['only'][name]:.4f}" for name, value in found["without"].items()
    )

    def draw(axes: list[Any]) -> None:
        """A panel of bars for each side."""
        for panel, side in zip(axes, sides, strict=True):
            bar_panel(panel, found[side], x="accuracy without it" if side == "without" else "accuracy with only it")
            panel.set_xlim(0, 1)

    cells = [[name, f"{value:.4f}", f"{found['only'][name]:.4f}"] for name, value in found["without"].items()]
    drawn = svg(draw, words=words, panels=2, height=1 + 0.28 * len(cells))
    return Picture("Without one part, and with only that", drawn, words, Table(["part", *sides], cells))


def dial(trials: Trials) -> Picture:
    """Accuracy over the strength of the adapter."""
    x, y = [float(each["name"]) for each in trials], [each["found"]["accuracy"] for each in trials]
    words = f"Curve of the accuracy over the strength of the adapter, from {min(x):g} to {max(x):g}; 1 is as trained."

    def draw(axes: list[Any]) -> None:
        """One line."""
        line_panel(axes[0], [Line("accuracy", x, y)], title="", x="strength (1 as trained)", y="accuracy")

    cells = [[f"{strength:g}", f"{accuracy:.4f}"] for strength, accuracy in zip(x, y, strict=True)]
    return Picture("Weaker and stronger", svg(draw, words=words), words, Table(["strength", "accuracy"], cells))


def _called(trial: Mapping[str, Any]) -> str:
    return f"{trial['group']} {trial['name']}"
