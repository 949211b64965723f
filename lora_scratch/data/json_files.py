"""Read the records of JSON files: an object a line (.jsonl), or a list of objects (.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError
from .rows import bad_row
from .text_files import lines_of, open_text, without_trailing_blanks

EMPTY = "the line is empty"

Fields = tuple[str, dict[str, Any] | DataError]  # (place, the record by column, or what is wrong with it)


def read_jsonl(path: Path) -> Iterator[Fields]:
    """Yield the object of every line, numbered from 1."""
    with open_text(path) as file:
        for number, line in without_trailing_blanks(lines_of(file)):
            place = f"{path}:{number}"
            yield place, bad_row(place, EMPTY, "a JSON object") if line is None else _json_fields(place, line)


def _json_fields(place: str, line: str) -> dict[str, Any] | DataError:
    try:
        fields = json.loads(line, object_pairs_hook=_json_object)
    except (ValueError, RecursionError) as error:  # also a number of 4,300 digits
        return bad_row(place, f"malformed JSON ({error})", "a JSON object on one line")
    if not isinstance(fields, dict):
        return bad_row(place, f"JSON of type {type(fields).__name__}", "a JSON object")
    return fields


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return fields


def holds_a_list(path: Path) -> bool:
    """Return whether the first line with content opens a list."""
    with open_text(path) as file:
        for line in file:
            if line.strip():
                return line.lstrip().startswith("[")
    return False


def read_json_list(path: Path) -> Iterator[Fields]:
    """Yield the objects of a list, numbered from 1. The list is read as a whole."""
    try:
        with open_text(path) as file:
            entries = json.load(file, object_pairs_hook=_json_object)
    except (ValueError, RecursionError) as error:
        problem, expected = f"malformed JSON ({error})", "a list of objects"
        if isinstance(error, DataError):
            raise
        raise DataError(problem, where=str(path), expected=expected) from error
    for number, entry in enumerate(entries, start=1):
        place = f"{path}:{number}"
        problem = f"JSON of type {type(entry).__name__}"
        yield place, entry if isinstance(entry, dict) else bad_row(place, problem, "a JSON object")
