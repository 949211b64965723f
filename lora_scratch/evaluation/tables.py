"""A report as text: `render` for the terminal, `render_markdown` for a model card."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ..runtime.markdown import markdown_text
from ..tasks import Interval
from ..tasks.metrics import TITLES
from .calibration import Calibrations
from .classes import ClassScores
from .report import Report, TrainingCost
from .verdict import ChangedRow

WIDTH = 100  # columns of the terminal text, at most
LABEL_WIDTH = 20  # columns of a label in a table; report.json holds the whole label
LISTED_ROWS = 5  # changed rows of each kind; report.json holds more
MANY = 100  # labels up to which each has a row in a table; report.json holds all
ENDS = 20  # else the labels with the lowest F1, and as many with the highest


@dataclass(frozen=True)
class Table:
    """A header and rows of the same length. The first column is aligned left, the others right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def render(report: Report) -> str:
    """Return the report as text of at most 100 columns, with some of the changed rows."""
    parts = [*_parts(report, _aligned), *_changed(report)]
    return "\n\n".join(part if "\n" in part else textwrap.fill(part, WIDTH) for part in parts)


def render_markdown(report: Report) -> str:
    """Return the report as Markdown, without rows: the card is public, the data may be private."""
    return "\n\n".join(_parts(report, markdown_table, markdown_text))


def _parts(report: Report, draw: Callable[[Table], str], say: Callable[[str], str] = str) -> Iterator[str]:
    yield say(report.verdict.sentence)
    yield draw(scores_table(report))
    yield test_line(report)
    if report.leaked is not None:
        yield leaked_line(report)
    yield draw(difference_table(report.difference))
    if report.calibration is not None:
        yield draw(calibration_table(report.calibration))
    else:
        yield no_calibration(report)
    if report.thresholds:
        yield say(threshold_line(report.thresholds))
    if report.lengths is not None:
        yield draw(length_table(report))
    if report.per_class is not None:
        kind = label_kind(report)
        figures = "precision P, recall R and F1 of the baseline and, now, of the adapted model; rows fixed and broken"
        yield f"Per {kind}: {figures}"
        if len(report.labels) > MANY:
            yield selection_line(report)
        yield draw(class_table(report.per_class, kind=kind))
    yield draw(parameter_table(report))
    if report.train is not None:
        yield training_line(report.train)


def _changed(report: Report) -> Iterator[str]:
    changed, test, (better, worse) = report.changed, report.test, report.make_task().row_words
    for kind, rows, count in ((better, changed.fixed, test.fixed), (worse, changed.broken, test.broken)):
        if rows:
            shown = rows[:LISTED_ROWS]
            yield "\n".join([f"Rows {kind} ({len(shown)} of {count:,})", *map(_changed_line, shown)])


def _changed_line(row: ChangedRow) -> str:
    before, after, label = (_shortened(_printable(name)) for name in (row.before, row.after, row.label))
    answers = f"  {row.row}: {before} -> {after}" + (f" (truth {label})" if row.after != row.label else "")
    return answers if row.text is None else _shortened(f"{answers}  {_printable(row.text)}", WIDTH)


def scores_table(report: Report) -> Table:
    """Return the scores of the models and the change. `constant` is the rival that reads no text."""
    models = {"baseline": report.baseline, "linear probe": report.linear_probe, "adapted": report.adapted}
    if report.constant is not None:
        models = {_shortened(_printable(report.constant.answer)): report.constant.metrics, **models}
    measured = {name: metrics for name, metrics in models.items() if metrics is not None}
    change = partial(_change, report.baseline, report.adapted)
    rows = [
        [TITLES[name], *(f"{m.shown[name]:.4f}" for m in measured.values()), change(name)] for name in report.adapted.shown
    ]
    return Table([f"{report.adapted.n:,} rows", *measured, "adapted - baseline"], rows)


def difference_table(difference: Mapping[str, Interval]) -> Table:
    """Return the 95 % intervals of the change."""
    rows = [[TITLES[name], *(f"{x:+.4f}" for x in (i.value, i.low, i.high))] for name, i in difference.items()]
    return Table(["95 % interval", "adapted - baseline", "low", "high"], rows)


def calibration_table(found: Calibrations) -> Table:
    """Return calibration error and Brier score."""
    models = {"baseline": found.baseline, "adapted": found.adapted}
    if found.tempered:
        models[f"adapted, T = {found.tempered.temperature:.3f}"] = found.tempered
    rows = [[title, f"{model.ece:.4f}", f"{model.brier:.4f}"] for title, model in models.items()]
    return Table(["calibration", "ECE", "Brier"], rows)


def leaked_line(report: Report) -> str:
    """Return how many test rows stand in train too, and the score without them."""
    found, name = report.leaked, TITLES[report.adapted.headline_name]
    if found is None:
        return ""
    scores = f"{name} {found.baseline:.4f} -> {found.adapted:.4f}"
    return f"Test rows whose text stands in train too: {found.rows:,}. Without them: {scores}"


def length_table(report: Report) -> Table:
    """Return both models' headline score by the number of tokens."""
    rows = []
    for s in report.lengths or ():
        scores = (f"{s.baseline:.4f}", f"{s.adapted:.4f}")
        rows.append([f"{s.shortest} to {s.longest} tokens", f"{s.n:,}", *scores, f"{s.fixed:,}", f"{s.broken:,}"])
    name = TITLES[report.adapted.headline_name]
    return Table(["length", "rows", f"{name} before", f"{name} after", *report.make_task().row_words], rows)


def no_calibration(report: Report) -> str:
    """Return why the report has no calibration."""
    return f"Calibration does not apply: {report.make_task().no_confidence}."


def label_kind(report: Report) -> str:
    """Return `class` where a row has one label, else `label`."""
    return "label" if report.confusion is None else "class"


def threshold_line(thresholds: Mapping[str, float]) -> str:
    """Return the thresholds as a sentence: those of many labels as a range."""
    if len(thresholds) > MANY:
        low, high = min(thresholds.values()), max(thresholds.values())
        return f"{len(thresholds):,} thresholds, {low:g} to {high:g}, fitted on validation rows; report.json has them."
    listed = ", ".join(f"{_printable(label)} {threshold:g}" for label, threshold in thresholds.items())
    return f"A label applies where its probability is above its threshold, fitted on validation rows: {listed}."


def test_line(report: Report) -> str:
    """Return the paired test and its figures as a sentence."""
    test, (better, worse) = report.test, report.make_task().row_words
    p = f"p = {test.p_value:.4f}" if test.p_value >= 0.001 else f"p = {test.p_value:.1e}"
    return (
        f"{test.title}, adapted against baseline: {test.fixed:,} rows {better}, {test.broken:,} {worse}, "
        f"{p if test.p_value else 'p < 1e-300'}"  # 0 is an underflow
    )


def selection_line(report: Report) -> str:
    """Return which labels the tables of a report with many labels show."""
    return f"{ENDS} labels with the lowest F1 and {ENDS} with the highest, of {len(report.labels):,}; report.json has all."


def _ends(found: ClassScores) -> list[int]:
    """Return the numbers of the labels that are shown: all, or those with the lowest and the highest F1."""
    numbers = range(len(found.adapted))
    if len(numbers) <= MANY:
        return list(numbers)
    ordered = sorted((i for i in numbers if found.adapted[i].support), key=lambda i: found.adapted[i].f1)
    return [*ordered[:ENDS], *ordered[ENDS:][-ENDS:]]


def class_table(found: ClassScores, *, kind: str = "class") -> Table:
    """Return the scores of the labels before and after: all labels, or of many the worst and the best."""
    rows = []
    for i in _ends(found):
        before, after, counts = found.baseline[i], found.adapted[i], (found.fixed[i], found.broken[i])
        scores = [f"{getattr(row, score):.4f}" for score in ("precision", "recall", "f1") for row in (before, after)]
        changed = [_change(before, after, "f1"), *(f"{count:,}" for count in counts)]
        rows.append([_printable(before.label), f"{before.support:,}", *scores, *changed])
    titles = [f"{score}{when}" for score in ("P", "R", "F1") for when in ("", " now")]
    return Table([kind, "rows", *titles, "change", "fixed", "broken"], rows)


def _change(before: object, after: object, score: str) -> str:
    return f"{getattr(after, score) - getattr(before, score):+.4f}"


def parameter_table(report: Report) -> Table:
    """Return the numbers of parameters, and their share of all."""
    counts = report.parameters
    rows = {"all": counts.total, "trained": counts.trainable}
    if counts.lora:  # else there is no adapter to tell apart
        rows |= {"trained: LoRA": counts.lora, "trained: head": counts.head}
    if counts.bias:
        rows["trained: biases"] = counts.bias
    cells = [[title, f"{count:,}", f"{100 * count / counts.total:.2f} %"] for title, count in rows.items()]
    return Table(["parameters", "number", "of all"], cells)


def training_line(train: TrainingCost) -> str:
    """Return the cost of the training as a sentence."""
    skipped = f"; {train.skipped_steps:,} steps were skipped, not finite" if train.skipped_steps else ""
    return (
        f"Training: {train.examples:,} examples ({train.tokens:,} tokens), {train.seconds:,.1f} s, "
        f"{train.examples_per_second:,.1f} examples/s, peak memory {train.peak_memory_bytes / 2**30:.2f} GiB{skipped}"
    )


def _aligned(table: Table) -> str:
    return aligned_table(Table(table.header, [[_shortened(row[0]), *row[1:]] for row in table.rows]))


def aligned_table(table: Table) -> str:
    """Return the table as text with aligned columns."""
    cells = [table.header, *table.rows]
    widths = [max(map(_columns, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(_padded(row[i], width, left=not i) for i, width in enumerate(widths)) for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(table: Table) -> str:
    """Return the table as Markdown, with Markdown's own characters escaped in the cells."""
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    header, *rows = [[markdown_text(cell) for cell in row] for row in (table.header, *table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _printable(label: str) -> str:
    """Return the label on one line, without control characters."""
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in label)


def _columns(text: str) -> int:
    """Count terminal columns: East Asian wide characters take two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)


def _shortened(text: str, width: int = LABEL_WIDTH) -> str:
    if len(text) <= 2 * width and _columns(text) <= width:
        return text
    text = text[: 2 * width]  # a row may hold megabytes
    while _columns(text) > width - 3:
        text = text[:-1]
    return text + "..."


def _padded(cell: str, width: int, *, left: bool) -> str:
    space = " " * (width - _columns(cell))
    return cell + space if left else space + cell
