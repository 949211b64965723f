"""The page of a comparison: the best method, the tables, every run, and the curve over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ..evaluation import Table
from ..reporting.drawing import INK, Line, line_panel, sentence_case, svg
from ..reporting.page import Listing, Page, Picture, Section
from ..tasks import TITLES
from ..tasks.task import BETTER
from .comparison import PairedTest, paired_table, summarize
from .methods import RunResult

Results = Sequence[RunResult]
Scores = dict[str, list[tuple[int, float]]]  # (seed, headline score) of every run, by method


def comparison_page(results: Results, tests: Sequence[PairedTest], *, source: str = "") -> Page:
    """Return the page of a comparison.

    The answer and the dots are of the largest number of training rows.
    """
    counts = {result.run.rows for result in results}
    most = max(counts, key=lambda rows: float("inf") if rows is None else rows)
    last = [result for result in results if result.run.rows == most]
    scores: Scores = {}
    for result in last:
        scores.setdefault(result.run.method, []).append((result.run.seed, result.metrics.headline))
    means = {method: mean(score for _, score in pairs) for method, pairs in scores.items()}
    best = max(means, key=lambda method: means[method])
    seeds = f"{len(scores[best])} seed{'s' if len(scores[best]) > 1 else ''}"
    name, test_title = TITLES[results[0].metrics.headline_name], results[0].task.test_title
    sentences = [
        f"{best} has the highest mean {name} of {len(means)} on {last[0].metrics.n:,} rows: {means[best]:.4f} over {seeds}.",
        *_against([test for test in tests if (test.run.rows, test.run.method) == (most, best)], test_title),
    ]
    listings = [Listing("Mean and spread", summarize(results))]
    if tests:
        title = f"Against {tests[0].against} on the same rows: {test_title}, p by Holm"
        listings.append(Listing(f"{title} over all {len(tests)}", paired_table(tests)))
    curve = [_curve(results, name)] if len(counts) > 1 else []
    section = Section("All runs", pictures=[*curve, _dots(scores, means, name)], listings=listings)
    answer = (f"{best}: {means[best]:.4f}", " ".join(sentences))
    return Page("Comparison", answer, [section], source)


def _against(tests: Sequence[PairedTest], test_title: str) -> list[str]:
    """Return a sentence with the tests of the best method."""
    if not tests:
        return []
    better = sum(test.test.word == BETTER for test in tests)
    return [
        f"Against {tests[0].against}, row by row, {tests[0].run.method} is better in {better} of "
        f"{len(tests)} runs by {test_title} (largest p "
        f"{max(test.p_holm for test in tests):.2g}, corrected for all tests of the comparison)."
    ]


def _dots(scores: Scores, means: Mapping[str, float], name: str) -> Picture:
    words = f"{sentence_case(name)} of every run, a dot for each seed and a bar at the mean: " + ", ".join(
        f"{method} {value:.4f}" for method, value in means.items()
    )

    def draw(axes: list[Any]) -> None:
        for y, (method, pairs) in enumerate(scores.items()):
            axes[0].plot([score for _, score in pairs], [y] * len(pairs), "o", alpha=0.7)
            axes[0].plot([means[method]] * 2, [y - 0.3, y + 0.3], color=INK)
        axes[0].set(xlabel=name, ylim=(len(scores) - 0.5, -0.5))
        axes[0].set_yticks(range(len(scores)), list(scores))
        axes[0].grid(axis="x", alpha=0.15, color=INK)

    rows = [[m, str(seed), f"{score:.4f}"] for m, pairs in scores.items() for seed, score in pairs]
    drawn = svg(draw, words=words, height=1 + 0.35 * len(scores))
    return Picture(f"{sentence_case(name)} by seed", drawn, words, Table(["rung", "seed", name], rows))


def _curve(results: Results, name: str) -> Picture:
    """Draw the mean score of every method over the number of training rows, on a log scale."""
    scores: dict[str, dict[int, list[float]]] = {}
    for result in results:
        by_rows = scores.setdefault(result.run.method, {})
        by_rows.setdefault(result.run.rows or 0, []).append(result.metrics.headline)
    counts = sorted({n for by_rows in scores.values() for n in by_rows})
    means = {method: [mean(by_rows[n]) for n in counts] for method, by_rows in scores.items()}
    few, many = f"{counts[0]:,}", f"{counts[-1]:,}"
    words = f"Mean {name} by number of training rows: " + "; ".join(
        f"{method} from {y[0]:.4f} at {few} to {y[-1]:.4f} at {many}" for method, y in means.items()
    )

    def draw(axes: list[Any]) -> None:
        lines = [Line(method, counts, y) for method, y in means.items()]
        line_panel(axes[0], lines, title="", x="training rows", y=name)
        axes[0].set_xscale("log")
        axes[0].set_xticks(counts, [f"{n:,}" for n in counts])
        axes[0].minorticks_off()

    rows = [[f"{n:,}", *(f"{y[i]:.4f}" for y in means.values())] for i, n in enumerate(counts)]
    table = Table(["rows", *means], rows)
    return Picture("Over growing training sets", svg(draw, words=words, height=4), words, table)
