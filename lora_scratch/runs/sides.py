"""Whether texts are single or pairs, as the adapter was trained."""

from __future__ import annotations

from ..errors import DataError
from ..serialization import DataRecord


def check_sides(data: DataRecord, *, pairs: bool, where: str = "") -> None:
    """Raise DataError for single texts and an adapter of pairs, or the other way round.

    A folder that does not record its columns takes both.
    """
    trained_on_pairs = data.pair_column is not None
    if pairs == trained_on_pairs or (data.text_column is None and not trained_on_pairs):
        return
    found = "found pairs, and the adapter was trained on single texts"
    remedy = "leave out --pair, --pair_column or the second text"
    if trained_on_pairs:
        columns = f"columns {data.text_column!r} and {data.pair_column!r}"
        found = f"found single texts, and the adapter was trained on pairs ({columns})"
        remedy = "name the second text with --pair, or the second column of a table with --pair_column"
    raise DataError(found, where=where, remedy=remedy)
