"""A comparison as a page: its table, and the accuracy of every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ..evaluation import Table
from .drawing import INK, svg
from .page import Listing, Page, Picture, Section


def comparison_page(runs: Sequence[Mapping[str, Any]], summary: Table, *, source: str = "") -> Page:
    """The page of a comparison; `runs` is what comparison.json holds, `summary` the table over seeds."""
    scores: dict[str, list[tuple[int, float]]] = {}
    for run in runs:
        scores.setdefault(run["rung"], []).append((run["seed"], run["adapted"]["accuracy"]))
    means = {name: mean(score for _, score in each) for name, each in scores.items()}
    best = max(means, key=lambda name: means[name])
    sentence = (
        f"{best} has the highest mean accuracy of {len(means)} on {runs[0]['adapted']['n']:,} rows: {means[best]:.4f} "
        f"over {len(scores[best])} seed{'s' if len(scores[best]) > 1 else ''}. "
        "Whether that is more than the spread between seeds, the table and the picture show."
    )
    section = Section("All runs", pictures=[_accuracies(scores, means)], listings=[Listing("Mean and spread", summary)])
    return Page("Comparison", ("comparison", sentence), [section], source)


def _accuracies(scores: Mapping[str, Sequence[tuple[int, float]]], means: Mapping[str, float]) -> Picture:
    words = "Accuracy of every run, a dot for each seed and a bar at the mean: " + ", ".join(
        f"{name} {value:.4f}" for name, value in means.items()
    )

    def draw(axes: list[Any]) -> None:
        for place, (name, each) in enumerate(scores.items()):
            axes[0].plot([score for _, score in each], [place] * len(each), "o", alpha=0.7)
            axes[0].plot([means[name]] * 2, [place - 0.3, place + 0.3], color=INK)
        axes[0].set(xlabel="accuracy", ylim=(len(scores) - 0.5, -0.5))
        axes[0].set_yticks(range(len(scores)), list(scores))
        axes[0].grid(axis="x", alpha=0.15, color=INK)

    cells = [[name, str(seed), f"{score:.4f}"] for name, each in scores.items() for seed, score in each]
    drawn = svg(draw, words=words, height=1 + 0.35 * len(scores))
    return Picture("Accuracy by seed", drawn, words, Table(["rung", "seed", "accuracy"], cells))
