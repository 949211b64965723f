"""What check_data prints: counts first, then some rows of every kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..data.overlap import NAMES, Place
from ..data.shift import scores, spread_of
from ..errors import printable
from ..evaluation import Table, aligned_table
from .data_check import CROSSINGS, DataCheck

TEXT_WIDTH = 76  # columns of a text; the file of --json has it whole
LISTED_LABELS = 30


def render_check(check: DataCheck, *, show: int) -> str:
    """Return the findings as text, with `show` rows of every kind."""
    parts = [
        "\n".join(_summary(check)),
        *_copies(check, show),
        *_near(check, show),
        *_tables(check),
        "\n".join(_shifts(check)),
        *_suspects(check, show),
        *_hard(check, show),
        "--show N prints more rows of every kind, --json FILE writes them all.",
    ]
    return "\n\n".join(part for part in parts if part)


def _summary(check: DataCheck) -> Iterator[str]:
    splits, copies = check.splits, check.copies
    counts = ", ".join(f"{len(getattr(splits, name)):,} {name}" for name in NAMES)
    yield f"data    {printable(splits.source)}: {counts} rows; {splits.task}"
    rows = sum(len(text.places) for text in copies.texts)
    texts, conflicts = len(copies.texts), len(copies.conflicts)
    yield f"copies  texts in two rows or more: {texts:,} ({rows:,} rows); with different labels: {conflicts:,}"
    for split, other in CROSSINGS:
        number, total = len(copies.shared(split, other)), len(getattr(splits, split))
        yield f"        {split} rows whose text stands in {other} too: {number:,} of {total:,}"
    if check.near is not None:
        leaked = sum(near.place.split != "train" and near.other.split == "train" for near in check.near)
        conflicts = sum(near.conflict for near in check.near)
        yield f"near    rows nearly equal to an earlier one: {len(check.near):,}; with different labels: {conflicts:,}"
        yield f"        validation and test rows among them that are near a training row: {leaked:,}"
    if check.lengths.cut is not None:
        cut = ", ".join(f"{number:,} {name}" for name, number in check.lengths.cut.items())
        yield f"cut     to {check.lengths.max_tokens} tokens: {cut} rows"


def _copies(check: DataCheck, show: int) -> Iterator[str]:
    conflicts = check.copies.conflicts
    if conflicts:
        rows = (line for text in conflicts[:show] for line in _one_text(check, text.places))
        yield _listed("Texts with different labels", min(show, len(conflicts)), len(conflicts), rows)
    leaked = [text for text in check.copies.texts if {place.split for place in text.places} >= {"train", "test"}]
    if leaked:
        rows = (line for text in leaked[:show] for line in _one_text(check, text.places))
        yield _listed("Texts of test rows that stand in train too", min(show, len(leaked)), len(leaked), rows)


def _one_text(check: DataCheck, places: Sequence[Place]) -> Iterator[str]:
    """Yield the text and, below it, its places with their labels."""
    yield f"  {_text(check, places[0])}"
    labels = "; ".join(f"{_name(place)}: {check.label(place)}" for place in places)
    yield f"    {_shortened(labels, TEXT_WIDTH + 16)}"


def _near(check: DataCheck, show: int) -> Iterator[str]:
    if not check.near:
        return
    # what leaks first, then the most similar
    order = sorted(
        check.near, key=lambda near: (near.other.split != "train" or near.place.split == "train", -near.similarity)
    )
    lines = []
    for near in order[:show]:
        for place in (near.place, near.other):
            lines.append(f"  {near.similarity:.2f}  {_name(place)}: {check.label(place)}  {_text(check, place)}")
    yield _listed("Near copies", min(show, len(order)), len(order), lines)


def _tables(check: DataCheck) -> Iterator[str]:
    splits, counts = check.splits, check.counts
    if counts:
        totals = {name: max(1, len(getattr(splits, name))) for name in NAMES}
        rows = [
            [
                _shortened(label, 20),
                *(f"{counts[name][i]:,} ({100 * counts[name][i] / totals[name]:.1f} %)" for name in NAMES),
            ]
            for i, label in enumerate(splits.labels)
        ]
        yield aligned_table(Table(["rows of a label", *NAMES], rows[:LISTED_LABELS]))
        if len(rows) > LISTED_LABELS:
            yield f"and {len(rows) - LISTED_LABELS} more labels (--json has all)"
    else:
        yield _spreads("score", scores(splits))
    yield _spreads(f"{check.lengths.unit} of a row", check.lengths.rows)


def _spreads(title: str, values: Mapping[str, Sequence[float]]) -> str:
    shown = {name: spread_of(values[name]) for name in NAMES if values[name]}
    rows = [
        [name, *(f"{number:.4g}" for number in (s.least, s.median, s.mean, s.high, s.largest))] for name, s in shown.items()
    ]
    return aligned_table(Table([title, "least", "median", "mean", "95 %", "largest"], rows))


def _shifts(check: DataCheck) -> Iterator[str]:
    for shift in check.shifts:
        yield f"The {shift.subject} of the {shift.split} rows differ from those of train (p = {shift.p_value:.1e})."
    if not check.shifts:
        yield "Labels and lengths of validation and test rows are as in train (no difference at p < 0.001)."


def _suspects(check: DataCheck, show: int) -> Iterator[str]:
    if check.suspects is None:
        return
    lines = []
    for suspect in check.suspects[:show]:
        place = check.places[suspect.row]
        lines.append(f"  {suspect.score:.2f}  {_name(place)}: {suspect.label} -> {suspect.suggested}  {_text(check, place)}")
    yield _listed("Labels that may be wrong, the surest first", len(lines), len(check.suspects), lines)


def _hard(check: DataCheck, show: int) -> Iterator[str]:
    if check.hard is None:
        return
    lines = []
    for row in check.hard[:show]:
        place = Place("train", row.row)
        lines.append(f"  {row.margin:+.2f}  {_name(place)}: {row.label}  {_text(check, place)}")
    yield _listed("Training rows with the lowest mean margin of the run", len(lines), len(check.hard), lines)


def _listed(title: str, shown: int, number: int, lines: Iterator[str] | Sequence[str]) -> str:
    return "\n".join([f"{title} ({shown:,} of {number:,})", *lines])


def _name(place: Place) -> str:
    return f"{place.split} {place.row}"


def _text(check: DataCheck, place: Place) -> str:
    row = check.example(place)
    return _shortened(row.text if row.pair is None else f"{row.text} | {row.pair}", TEXT_WIDTH)


def _shortened(text: str, width: int) -> str:
    line = printable(text[: 4 * width])
    return line if len(line) <= width else f"{line[: width - 3]}..."
