"""The picture that a run's page opens with: before and after, for every label, or for numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..evaluation import Report
from ..evaluation.classes import ClassScores, Points
from ..tasks import TITLES
from ..tasks.metrics import LabelRow
from .drawing import COLOURS, INK, panels_svg, short

ALL_SHOWN = 32  # labels up to which each has a line
SHOWN = 10  # else the lines of each end, and the most in one column
NAME = 40  # letters of a label, at most
IN_ORDER = 8  # labels up to which the lines keep the labels' order; more are sorted


@dataclass(frozen=True)
class Track:
    """A line of the picture: a share from 0 to 1, before and after.

    Args:
        rows: the number of rows that the shares are of; empty if that is all rows.
        figures: both shares as they are written.
    """

    name: str
    rows: str
    before: float
    after: float
    figures: tuple[str, str]
    is_total: bool = False

    @property
    def word(self) -> str:
        """The direction of the change, by the figures that are shown."""
        if self.figures[0] == self.figures[1]:
            return "same"
        return "better" if self.after > self.before else "worse"


@dataclass(frozen=True)
class Opening:
    """The picture: a headline, a sentence that says how to read it, and groups of tracks or a drawing.

    Args:
        groups: each has a title, or none, and its tracks.
        svg: an element, not escaped: only drawing.py may make one.
    """

    headline: str
    sentence: str
    groups: Sequence[tuple[str, Sequence[Track]]] = ()
    svg: str = ""


def opening(report: Report) -> Opening | None:
    """Return the picture that suits the answers; None for a task that has neither labels nor numbers."""
    if report.points is not None:
        return _numbers(report, report.points)
    if report.per_class is None:
        return None
    return _labels(report, report.per_class) if report.confusion is None else _classes(report, report.per_class)


def _classes(report: Report, scores: ClassScores) -> Opening:
    """Show how many rows of every class are right."""
    before, after = report.baseline.headline, report.adapted.headline
    right = [round(score * report.adapted.n) for score in (before, after)]
    everything = Track(
        "all rows", f"{report.adapted.n:,}", before, after, (_percent(before), _percent(after)), is_total=True
    )
    tracks = [
        _track(new, old.recall, new.recall, (_percent(old.recall), _percent(new.recall))) for old, new in _with_rows(scores)
    ]
    return Opening(
        f"{right[0]:,} of {report.adapted.n:,} rows right before, {right[1]:,} after",
        f"The share of rows that got the right label, for each true label.{_unmeasured(scores)}",
        _groups(tracks, len(report.labels), first=everything),
    )


def _labels(report: Report, scores: ClassScores) -> Opening:
    """Show F1 of every label."""
    before, after = report.baseline.headline, report.adapted.headline
    pairs = _with_rows(scores)
    tracks = [_track(new, old.f1, new.f1, (f"{old.f1:.2f}", f"{new.f1:.2f}")) for old, new in pairs]
    return Opening(
        f"Mean F1 of {len(report.labels):,} labels: {before:.2f} before, {after:.2f} after",
        f"F1 of each label, from 0 (never right) to 1 (where it applies, and only there).{_unmeasured(scores)}",
        _groups(tracks, len(report.labels)),
    )


def _numbers(report: Report, points: Points) -> Opening:
    """Show the predicted number over the true one."""
    name, score = short(report.labels[0]), report.adapted.headline_name
    title = "correlation" if score == "pearson" else TITLES[score]
    scores = f"{title} {report.baseline.headline:.2f} before, {report.adapted.headline:.2f} after"
    words = f"Two scatter plots of {len(points.label):,} rows: predicted over true {name}; {scores}."
    panels = {"before": points.baseline, "after": points.adapted}
    return Opening(
        f"Predicted against true {name}: {scores}",
        "Each dot is a row. A perfect model has every dot on the dashed line.",
        svg=_scatter(points.label, panels, name=name, words=words),
    )


def _scatter(truth: Sequence[float], answers: Mapping[str, Sequence[float]], *, name: str, words: str) -> str:
    """Draw a panel for each title in `answers`, all with the same axes; `name` is what the numbers are."""
    both = [*truth, *(number for column in answers.values() for number in column)]
    low, high = min(both), max(both)
    margin = 0.04 * (high - low) or 1.0

    def draw(axes: list[Any]) -> None:
        """Draw the panels."""
        for panel, (title, column) in zip(axes, answers.items(), strict=True):
            panel.plot([low, high], [low, high], "--", color=INK, alpha=0.6)
            panel.plot(truth, column, ".", color=COLOURS[0], alpha=0.5, markersize=6, markeredgewidth=0)
            limits = (low - margin, high + margin)
            panel.set(title=title, xlabel=f"true {name}", ylabel=f"predicted {name}", xlim=limits, ylim=limits)
            panel.grid(alpha=0.15, color=INK)

    return panels_svg(draw, words=words, panels=len(answers), height=3.9)


def _track(row: LabelRow, before: float, after: float, figures: tuple[str, str]) -> Track:
    return Track(short(row.label, NAME), f"{row.support:,}", before, after, figures)


def _with_rows(scores: ClassScores) -> list[tuple[LabelRow, LabelRow]]:
    """Return the labels, before and after, that some row has: the others can't be measured."""
    pairs = zip(scores.baseline, scores.adapted, strict=True)
    return [(old, new) for old, new in pairs if new.support]


def _groups(tracks: Sequence[Track], labels: int, *, first: Track | None = None) -> list[tuple[str, Sequence[Track]]]:
    """Return the columns: all tracks, or those of both ends under titles that say how many there are."""
    total = [first] if first else []
    ordered = tracks if labels <= IN_ORDER else sorted(tracks, key=lambda track: (-track.after, track.name))
    if len(tracks) <= SHOWN:
        return [("", [*total, *ordered])]
    above: list[tuple[str, Sequence[Track]]] = [("", total)] if total else []
    if len(tracks) <= ALL_SHOWN:
        half = -(-len(ordered) // 2)
        return [*above, ("", ordered[:half]), ("", ordered[half:])]
    highest, lowest = f"The {SHOWN} highest of {len(tracks):,}", f"The {SHOWN} lowest"
    return [*above, (highest, ordered[:SHOWN]), (lowest, ordered[-SHOWN:])]


def _unmeasured(scores: ClassScores) -> str:
    """Return a sentence about the labels without rows, which are not shown."""
    missing = sum(not row.support for row in scores.adapted)
    verb = "is" if missing == 1 else "are"
    return f" {missing:,} of {len(scores.adapted):,} labels {verb} left out: no row has them." if missing else ""


def _percent(share: float) -> str:
    """Return the share in per cent; 100 only where it is all, and 0 only where it is nothing."""
    percent = f"{share:.0%}"
    return f"{share:.1%}" if percent in ("0%", "100%") and share not in (0.0, 1.0) else percent
