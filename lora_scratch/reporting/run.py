"""A report, and what the training logged on the way, as a page: the verdict first, then where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..evaluation import Table, mcnemar_line, report_tables, training_line
from .anatomy import anatomy_section
from .drawing import Line, heat_panel, line_panel, short, svg
from .dynamics import dynamics_section
from .page import Listing, Page, Picture, Section

POINTS = 60  # of a curve, at most: each is the mean over as many steps
LISTED = 50  # fixed or broken rows, each; report.json holds more
MODELS = {"baseline": "before", "adapted": "after"}
NUMBERED = 20  # classes up to which every cell of a confusion matrix has its number


def run_page(
    report: Mapping[str, Any], events: Sequence[Mapping[str, Any]] = (), *, title: str = "Adapted against frozen"
) -> Page:
    """The page of report.json and of the lines of metrics.jsonl, if there are any.

    Args:
        report: with texts or without; it may hold "anatomy", the modules' figures.
    """
    tables = report_tables(report)
    listings = [Listing("Scores", tables["scores"]), Listing("Differences", tables["difference"])]
    verdict = Section("The answer in figures", [mcnemar_line(report)], listings=listings)
    steps = [event for event in events if event.get("event") == "step"]
    sections = [
        verdict,
        *([_curves(steps, [event for event in events if event.get("event") == "validation"])] if steps else []),
        _classes(report, tables),
        _changed(report),
        _reliability(report, tables),
        *([_lengths(report, tables)] if "lengths" in report else []),
        *([anatomy_section(report["anatomy"])] if report.get("anatomy") else []),
        *dynamics_section(steps),
        _cost(report, tables),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return Page(
        title, (report["verdict"]["word"], report["verdict"]["sentence"]), sections, f"{report['command']} — {versions}"
    )


def _curves(steps: Sequence[Mapping[str, Any]], validations: Sequence[Mapping[str, Any]]) -> Section:
    """Loss and accuracy on the way."""
    points = [_mean_of(group) for group in _groups(steps)]
    at = [point["step"] for point in points]
    words = f"Over {steps[-1]['step']:,} steps: training loss from {points[0]['loss']:.3f} to {points[-1]['loss']:.3f}" + (
        f", validation accuracy up to {max(each['accuracy'] for each in validations):.4f}." if validations else "."
    )

    def draw(axes: list[Any]) -> None:
        seen = [each["step"] for each in validations]
        lines = [Line("training", at, [point["loss"] for point in points])]
        lines += [Line("validation", seen, [each["loss"] for each in validations])] if seen else []
        line_panel(axes[0], lines, title="loss (nats)", x="step", y="")
        line_panel(
            axes[1],
            [Line("", seen, [each["accuracy"] for each in validations])],
            title="validation accuracy",
            x="step",
            y="",
        )

    keys = ("loss", "learning_rate", "gradient_norm")
    cells = [[f"{point['step']:,.0f}", *(f"{point[key]:.4g}" for key in keys)] for point in points]
    table = Table(["up to step", "training loss", "learning rate", "gradient norm"], cells)
    rows = [[f"{e['step']:,}", *(f"{e[key]:.4f}" for key in ("loss", "accuracy", "macro_f1"))] for e in validations]
    listing = Listing("Validation", Table(["step", "loss", "accuracy", "macro-F1"], rows))
    return Section(
        "Training",
        pictures=[Picture("Loss and accuracy", svg(draw, words=words, panels=2), words, table)],
        listings=[listing],
    )


def _groups(steps: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[Mapping[str, Any]]]:
    size = -(-len(steps) // POINTS)
    return (steps[start : start + size] for start in range(0, len(steps), size))


def _mean_of(group: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The last step of a group, and the means over it of what is a number: what is not finite stands there as text."""
    means: dict[str, float] = {"step": group[-1]["step"]}
    for key in ("loss", "learning_rate", "gradient_norm"):
        values = [event[key] for event in group if isinstance(event[key], float | int)]
        means[key] = sum(values) / len(values) if values else float("nan")
    return means


def _classes(report: Mapping[str, Any], tables: Mapping[str, Table]) -> Section:
    """Confusion matrices before and after, and the scores of every class."""
    names = report["labels"]
    size = "in numbers" if len(names) <= NUMBERED else "by colour"
    words = (
        f"Two confusion matrices of {len(names)} classes, {size}: truth by row, answer by column. On the diagonal "
        f"{_diagonal(report, 'baseline'):,} rows before and {_diagonal(report, 'adapted'):,} after."
    )

    def draw(axes: list[Any]) -> None:
        for panel, (model, title) in zip(axes, MODELS.items(), strict=True):
            counts = report["confusion"][model]
            shares = [[count / max(1, sum(row)) for count in row] for row in counts]
            heat_panel(
                panel, shares, rows=names, columns=names, title=title, x="answer", y="truth" if model == "baseline" else ""
            )
            _numbers(panel, counts) if len(names) <= NUMBERED else None

    cells = [
        [f"{title}: {short(name)}", *(f"{count:,}" for count in row)]
        for model, title in MODELS.items()
        for name, row in zip(names, report["confusion"][model], strict=True)
    ]
    table = Table(["truth \\ answer", *map(short, names)], cells)
    height = min(8.0, 1.9 + 0.28 * len(names))
    picture = Picture("Confusion matrices", svg(draw, words=words, panels=2, height=height), words, table)
    return Section(
        "Class by class", pictures=[picture], listings=[Listing("Precision P, recall R and F1", tables["classes"])]
    )


def _numbers(axes: Any, counts: Sequence[Sequence[int]]) -> None:
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            axes.text(j + 0.5, i + 0.5, str(count), ha="center", va="center", fontsize=8 if len(counts) <= 8 else 6)


def _diagonal(report: Mapping[str, Any], model: str) -> int:
    return sum(row[i] for i, row in enumerate(report["confusion"][model]))


def _changed(report: Mapping[str, Any]) -> Section:
    """The rows that one of the two models alone has right."""
    listings = []
    for kind, what in (("fixed", "wrong before, right after"), ("broken", "right before, wrong after")):
        rows = report["changed"][kind][:LISTED]
        cells = [[str(r["row"]), r["label"], r["before"], r["after"], r["text"] or ""] for r in rows]
        shown = f"{len(rows)} of {report['mcnemar'][kind]:,}" if rows else "none"
        table = Table(["row", "truth", "before", "after", "text"], cells)
        listings.append(Listing(f"{kind.capitalize()}: {what} ({shown})", table, texts=True))
    return Section("Rows fixed and broken", ["Rows are counted from 0 in the order of the data set."], listings=listings)


def _reliability(report: Mapping[str, Any], tables: Mapping[str, Table]) -> Section:
    """Accuracy by stated confidence, before and after."""
    found, n = report["calibration"], report["adapted"]["n"]
    names = {"baseline": "before", "adapted": "after", "tempered": "after, tempered"}
    curves = {names[model]: found[model]["bins"] for model in names if model in found}
    errors = ", ".join(f"{found[model]['ece']:.3f} {names[model]}" for model in names if model in found)
    words = f"Accuracy by stated confidence; a perfect model is on the diagonal. Larger dots are more rows. ECE {errors}."

    def draw(axes: list[Any]) -> None:
        lines = [Line(name, [b["confidence"] for b in bins], [b["accuracy"] for b in bins]) for name, bins in curves.items()]
        line_panel(axes[0], [*lines, Line("perfect", [0, 1], [0, 1], quiet=True)], title="", x="confidence", y="accuracy")
        for line, bins in zip(axes[0].lines, curves.values(), strict=False):  # a dot's area is its share of the rows
            axes[0].scatter(line.get_xdata(), line.get_ydata(), s=[2 + 300 * b["n"] / n for b in bins], alpha=0.5)
            line.set(alpha=0.5, marker="")
        axes[0].set(xlim=(0, 1.02), ylim=(-0.03, 1.06))

    cells = [
        [name, f"{b['low']:.3f} to {b['high']:.3f}", f"{b['n']:,}", f"{b['confidence']:.4f}", f"{b['accuracy']:.4f}"]
        for name, bins in curves.items()
        for b in bins
    ]
    table = Table(["model", "confidence in", "rows", "mean confidence", "accuracy"], cells)
    picture = Picture("Reliability", svg(draw, words=words, height=4.2), words, table)
    return Section(
        "Does it know what it knows?", pictures=[picture], listings=[Listing("Calibration", tables["calibration"])]
    )


def _lengths(report: Mapping[str, Any], tables: Mapping[str, Table]) -> Section:
    return Section("Short rows and long rows", listings=[Listing("By number of tokens", tables["lengths"])])


def _cost(report: Mapping[str, Any], tables: Mapping[str, Table]) -> Section:
    sentences = [training_line(report["train"])] if report["train"] else []
    return Section("What it cost", sentences, listings=[Listing("Parameters", tables["parameters"])])
