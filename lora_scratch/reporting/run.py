"""The page of a run, from its report and its log: the verdict first, then the figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..evaluation import Report, Table, tables
from ..evaluation.calibration import Calibrations
from ..tasks import TITLES
from .anatomy import anatomy_section
from .answers import answers_section
from .changed import changed_section
from .drawing import COLOURS, Line, line_panel, panels_svg, svg
from .dynamics import dynamics_section
from .opening import opening
from .page import Listing, Page, Picture, Section

POINTS = 60  # of a curve, at most: each point is the mean over equally many steps
LOGGED = ("loss", "learning_rate", "gradient_norm")

Event = Mapping[str, Any]


def run_page(report: Report, events: Sequence[Event] = (), *, title: str = "Adapted against frozen") -> Page:
    """Return the page of a report and of the lines of metrics.jsonl, if there are any."""
    steps = [event for event in events if event.get("event") == "step"]
    validations = [event for event in events if event.get("event") == "validation" and _has_scores(event, report)]
    listings = [
        Listing("Scores", tables.scores_table(report)),
        Listing("Differences", tables.difference_table(report.difference)),
    ]
    sections = [
        changed_section(report),
        Section("The answer in figures", _answer_sentences(report), listings=listings),
        *answers_section(report),
        *([_curves(report, steps, validations)] if steps else []),
        *([_reliability(report.calibration, report.adapted.n)] if report.calibration else []),
        *_lengths(report),
        *([anatomy_section(report.anatomy)] if report.anatomy else []),
        *dynamics_section(steps),
        _cost(report),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    verdict = (report.verdict.word, report.verdict.sentence)
    source = f"{report.command} — {versions}"
    return Page(title, verdict, sections, source, opening=opening(report), facts=_facts(report))


def _facts(report: Report) -> list[tuple[str, str]]:
    """Return what a reader asks next: rows better and worse, and what it cost."""
    counts = zip(report.make_task().row_words, (report.test.fixed, report.test.broken), strict=True)
    share = f"{report.parameters.trainable / report.parameters.total:.2%}"
    facts = [*((f"rows {word}", f"{count:,}") for word, count in counts), ("of all parameters trained", share)]
    if report.train is not None:
        facts.append(("training", _duration(report.train.seconds)))
    return facts


def _duration(seconds: float) -> str:
    """Return the time in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _has_scores(event: Event, report: Report) -> bool:
    """Return whether a validation has the scores that are shown: a log is a file, and may be damaged."""
    names = [report.adapted.headline_name, "loss", *list(report.adapted.shown)[:2]]
    return all(isinstance(event.get(name), float | int) for name in names)


def _answer_sentences(report: Report) -> list[str]:
    sentences = [tables.test_line(report)]
    if report.leaked is not None:
        sentences.append(tables.leaked_line(report))
    if report.thresholds:
        sentences.append(tables.threshold_line(report.thresholds))
    return sentences if report.calibration else [*sentences, tables.no_calibration(report)]


def _curves(report: Report, steps: Sequence[Event], validations: Sequence[Event]) -> Section:
    """Return the training loss, and loss and headline score of the validations, over the steps."""
    points = [_mean_of(group) for group in _groups(steps)]
    metrics = report.adapted
    score, title = metrics.headline_name, TITLES[metrics.headline_name]
    best = max((event[score] for event in validations), default=None)
    words = (
        f"Over {steps[-1]['step']:,} steps: training loss from {points[0]['loss']:.3f} to {points[-1]['loss']:.3f}"
        f"{'' if best is None else f', validation {title} up to {best:.4f}'}."
    )

    def draw(axes: list[Any]) -> None:
        validated = [event["step"] for event in validations]
        lines = [Line("training", [point["step"] for point in points], [point["loss"] for point in points])]
        lines += [Line("validation", validated, [event["loss"] for event in validations])] if validated else []
        line_panel(axes[0], lines, title=metrics.loss_title, x="step", y="")
        scored = Line("", validated, [event[score] for event in validations])
        line_panel(axes[1], [scored], title=f"validation {title}", x="step", y="")

    cells = [[f"{point['step']:,.0f}", *(f"{point[key]:.4g}" for key in LOGGED)] for point in points]
    table = Table(["up to step", "training loss", "learning rate", "gradient norm"], cells)
    picture = Picture(f"Loss and {title}", panels_svg(draw, words=words, panels=2), words, table)
    names = list(dict.fromkeys(["loss", *list(metrics.shown)[:2]]))
    rows = [[f"{e['step']:,}", *(f"{e[name]:.4f}" for name in names)] for e in validations]
    listing = Listing("Validation", Table(["step", "loss", *(TITLES[name] for name in names[1:])], rows))
    return Section("Training", pictures=[picture], listings=[listing])


def _groups(steps: Sequence[Event]) -> Iterable[Sequence[Event]]:
    size = -(-len(steps) // POINTS)
    return (steps[start : start + size] for start in range(0, len(steps), size))


def _mean_of(group: Sequence[Event]) -> dict[str, float]:
    """Return a group's last step and means. (A figure that is not finite is text in the log.)"""
    means: dict[str, float] = {"step": group[-1]["step"]}
    for key in LOGGED:
        values = [event[key] for event in group if isinstance(event[key], float | int)]
        means[key] = sum(values) / len(values) if values else float("nan")
    return means


def _reliability(found: Calibrations, n: int) -> Section:
    """Return accuracy by stated confidence, before and after."""
    models = {"before": found.baseline, "after": found.adapted}
    models |= {"after, tempered": found.tempered} if found.tempered else {}
    errors = ", ".join(f"{model.ece:.3f} {name}" for name, model in models.items())
    words = f"Accuracy by stated confidence; a perfect model is on the diagonal. Larger dots are more rows. ECE {errors}."

    def draw(axes: list[Any]) -> None:
        line_panel(axes[0], [Line("perfect", [0, 1], [0, 1], quiet=True)], title="", x="confidence", y="accuracy")
        for (name, model), colour in zip(models.items(), COLOURS, strict=False):  # a dot's area is its share of the rows
            x, y = [b.confidence for b in model.bins], [b.accuracy for b in model.bins]
            axes[0].scatter(x, y, s=[6 + 400 * b.n / n for b in model.bins], color=colour, alpha=0.6, linewidths=0)
            axes[0].plot([], [], "o", color=colour, label=name)  # in the legend all dots have one size
        axes[0].set(xlim=(0, 1.02), ylim=(-0.03, 1.06))
        axes[0].legend(fontsize=8, loc="upper left")

    cells = [
        [name, f"{b.low:.3f} to {b.high:.3f}", f"{b.n:,}", f"{b.confidence:.4f}", f"{b.accuracy:.4f}"]
        for name, model in models.items()
        for b in model.bins
    ]
    table = Table(["model", "confidence in", "rows", "mean confidence", "accuracy"], cells)
    picture = Picture("Reliability", svg(draw, words=words, height=4.2), words, table)
    listing = Listing("Calibration", tables.calibration_table(found))
    return Section("Stated confidence and accuracy", (), [picture], [listing])


def _lengths(report: Report) -> list[Section]:
    if report.lengths is None:
        return []
    listing = Listing("By number of tokens", tables.length_table(report))
    return [Section("Short rows and long rows", listings=[listing])]


def _cost(report: Report) -> Section:
    sentences = [tables.training_line(report.train)] if report.train else []
    return Section("What it cost", sentences, listings=[Listing("Parameters", tables.parameter_table(report))])
