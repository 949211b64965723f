"""A comparison as a page: the best rung first, the table of all, the accuracy of every run, and the curve over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ..evaluation import Table
from ..reporting.drawing import INK, Line, line_panel, svg
from ..reporting.page import Listing, Page, Picture, Section

Run = Mapping[str, Any]


def comparison_page(
    runs: Sequence[Run], summary: Table, *, duels: Sequence[Run] = (), tests: Table | None = None, source: str = ""
) -> Page:
    """The page of a comparison; `runs` and `duels` are what comparison.json holds, the tables those over seeds.

    Where there are several numbers of training rows, the answer and the dots are those of the largest.
    """
    most = max((run["rows"] for run in runs), key=lambda rows: float("inf") if rows is None else rows)
    last = [run for run in runs if run["rows"] == most]
    scores: dict[str, list[tuple[int, float]]] = {}
    for run in last:
        scores.setdefault(run["rung"], []).append((run["seed"], run["accuracy"]))
    means = {name: mean(score for _, score in each) for name, each in scores.items()}
    best = max(means, key=lambda name: means[name])
    sentences = [
        f"{best} has the highest mean accuracy of {len(means)} on {last[0]['n']:,} rows: {means[best]:.4f} "
        f"over {len(scores[best])} seed{'s' if len(scores[best]) > 1 else ''}.",
        *_against(best, [each for each in duels if each["rows"] == most and each["rung"] == best]),
    ]
    listings = [Listing("Mean and spread", summary)] + ([Listing(_title(duels), tests)] if tests and duels else [])
    curve = [_curve(runs)] if len({run["rows"] for run in runs}) > 1 else []
    section = Section("All runs", pictures=[*curve, _accuracies(scores, means)], listings=listings)
    return Page("Comparison", (f"{best}: {means[best]:.4f}", " ".join(sentences)), [section], source)


def _against(best: str, duels: Sequence[Run]) -> list[str]:
    """What the tests say of the best rung, in a sentence."""
    if not duels:
        return []
    better = sum(each["word"] == "better" for each in duels)
    return [
        f"Against {duels[0]['against']}, row by row, {best} is better in {better} of {len(duels)} runs by McNemar's exact "
        f"test (largest p {max(each['p_holm'] for each in duels):.2g}, corrected for all tests of the comparison)."
    ]


def _title(duels: Sequence[Run]) -> str:
    return f"Against {duels[0]['against']} on the same rows: McNemar's exact test, p by Holm over all {len(duels)}"


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


def _curve(runs: Sequence[Run]) -> Picture:
    """Mean accuracy of every rung over the number of training rows, which grows by factors."""
    counts = sorted({run["rows"] for run in runs})
    means = {
        (rung, rows): mean(run["accuracy"] for run in runs if (run["rung"], run["rows"]) == (rung, rows))
        for rung, rows in dict.fromkeys((run["rung"], run["rows"]) for run in runs)
    }
    rungs = list(dict.fromkeys(rung for rung, _ in means))
    words = "Mean accuracy by number of training rows: " + "; ".join(
        f"{rung} from {means[rung, counts[0]]:.4f} at {counts[0]:,} to {means[rung, counts[-1]]:.4f} at {counts[-1]:,}"
        for rung in rungs
    )

    def draw(axes: list[Any]) -> None:
        line_panel(
            axes[0],
            [Line(rung, counts, [means[rung, rows] for rows in counts]) for rung in rungs],
            title="",
            x="training rows",
            y="accuracy",
        )
        axes[0].set_xscale("log")
        axes[0].set_xticks(counts, [f"{rows:,}" for rows in counts])
        axes[0].minorticks_off()

    cells = [[f"{rows:,}", *(f"{means[rung, rows]:.4f}" for rung in rungs)] for rows in counts]
    return Picture("Over growing training sets", svg(draw, words=words, height=4), words, Table(["rows", *rungs], cells))
