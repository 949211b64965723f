"""Read rows that name their adapter: {"text": ..., "adapter": ...} on a line, and "pair" for a second text."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from ..data.cells import listed, text_fault
from ..data.rows import bad_row
from ..data.text_files import open_text
from ..errors import DataError
from ..runtime.json_text import parse_json
from .classify import Pair

STANDARD_INPUT = "-"
EXPECTED = '{"text": ..., "adapter": ...} on one line'


def read_named_rows(path: str, adapters: Collection[str]) -> Iterator[tuple[str | Pair, str]]:
    """Yield (text or pair of texts, adapter) of every line of a file, or of standard input; blank lines are no rows.

    Raises:
        DataError: no such file, or a line that can't be used.
    """
    name = "standard input" if path == STANDARD_INPUT else path
    if path != STANDARD_INPUT and not os.path.isfile(path):
        fault = "this is a folder" if os.path.isdir(path) else "no such file"
        raise DataError(fault, where=path, expected="a UTF-8 file with one JSON object a line")
    with open_text(None if path == STANDARD_INPUT else Path(path)) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _checked(line, f"{name}:{number}", adapters)


def _checked(line: str, where: str, adapters: Collection[str]) -> tuple[str | Pair, str]:
    try:
        fields = parse_json(line)
    except ValueError as error:
        raise DataError(f"malformed JSON ({error})", where=where, expected=EXPECTED) from error
    if not isinstance(fields, dict) or not {"text", "adapter"} <= fields.keys():
        found = listed(list(fields)) if isinstance(fields, dict) else f"JSON of type {type(fields).__name__}"
        raise DataError(f"found {found}", where=where, expected=EXPECTED)
    adapter = fields["adapter"]
    if not isinstance(adapter, str) or adapter not in adapters:
        raise DataError(f"no adapter {adapter!r}", where=where, expected=f"one of {', '.join(adapters)}")
    sides = {"text": "text", "pair": "second text"} if "pair" in fields else {"text": "text"}
    for name, title in sides.items():
        if fault := text_fault(fields[name], title):
            raise bad_row(where, *fault)
    return (fields["text"], fields["pair"]) if "pair" in fields else fields["text"], adapter
