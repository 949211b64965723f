"""Good data files of every format, and what can happen to them, by seed: to bytes, encodings, lines, headers, types."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support.damage import BYTES, damage_bytes

FORMATS = ("csv", "tsv", "jsonl", "txt", "parquet")
LABELS = ("joy", "anger", "fear")
TEXTS = (
    "i am glad",
    "so; sad, and more",
    'he said "no" twice',
    "two\nlines",
    "tab\there",
    "👩‍👩‍👧 ok",
    "مرحبا يا صديقي",
    "<script>alert(1)</script>",
    "\x1b[2J\x07",
    "naïve café",
    "  spaces  ",
    "{}",
)


def good_file(place: Path, kind: str, *, rows: int = 40) -> Path:
    """A whole file: an id, a text and a label in every row; .txt has no ids, and neither .txt nor .tsv has line breaks."""
    path = place / f"rows.{kind}"
    one_line = kind in ("txt", "tsv")
    texts = [TEXTS[i % len(TEXTS)].replace("\n", " ") if one_line else TEXTS[i % len(TEXTS)] for i in range(rows)]
    labels = [LABELS[i % len(LABELS)] for i in range(rows)]
    if kind == "parquet":
        # several row groups are more places to be hit; the checksums make a changed text show
        table = pa.table({"id": list(range(rows)), "text": texts, "label": labels})
        pq.write_table(table, path, row_group_size=16, write_page_checksum=True)
    elif kind == "jsonl":
        lines = [
            json.dumps({"id": i, "text": t, "label": n}, ensure_ascii=i % 2 == 0)
            for i, (t, n) in enumerate(zip(texts, labels, strict=True))
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    elif kind == "txt":
        path.write_text("".join(f"{t};{n}\n" for t, n in zip(texts, labels, strict=True)), encoding="utf-8", newline="")
    else:
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter="\t" if kind == "tsv" else ",", lineterminator="\n")
        writer.writerows([("id", "text", "label"), *zip(range(rows), texts, labels, strict=True)])
        path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def bytes_anywhere(path: Path, rng: random.Random) -> str:
    """Bit flips, truncations, blocks in the wrong place."""
    return f"bytes: {damage_bytes(path, rng, BYTES).split()[0]}"


def encoding(path: Path, rng: random.Random) -> str:
    """The same text in another encoding, where it has the letters."""
    name = rng.choice(
        ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be", "latin-1", "cp1252", "shift-jis", "utf-7", "cp500"]
    )
    path.write_bytes(path.read_bytes().decode().encode(name, errors="replace"))
    return f"encoding: {name}"


def byte_order_mark(path: Path, rng: random.Random) -> str:
    """One, two, or one in the middle, as when files are joined."""
    content, mark = path.read_bytes(), "\ufeff".encode()
    middle = content.index(b"\n", rng.randrange(len(content) - 1)) + 1
    kind = rng.choice(["one", "two", "middle", "alone"])
    path.write_bytes(
        {
            "one": mark + content,
            "two": mark * 2 + content,
            "middle": content[:middle] + mark + content[middle:],
            "alone": mark,
        }[kind]
    )
    return f"byte order mark: {kind}"


def line_ends(path: Path, rng: random.Random) -> str:
    """Windows, old Mac, mixed, doubled, none at the end."""
    kind = rng.choice(
        ["\r\n", "\r", "\n\n", "\r\r\n", "\n\r", "mixed", "none at the end", "blanks at the end", "\x0b", "\u2028", "\x85"]
    )
    content = path.read_bytes().decode()
    if kind == "mixed":
        content = "".join(rng.choice(["\n", "\r\n", "\r"]) if letter == "\n" else letter for letter in content)
    elif kind == "none at the end":
        content = content.rstrip("\n")
    elif kind == "blanks at the end":
        content += rng.choice(["\n\n\n", " \n\t\n", "\r\n\r\n", "   "])
    else:
        content = content.replace("\n", kind)
    path.write_bytes(content.encode())
    return f"line ends: {kind!a}"


def lines(path: Path, rng: random.Random) -> str:
    """Whole lines that are gone, twice, in other places, empty, full of something else."""
    found = path.read_bytes().decode().split("\n")
    kind, at = rng.choice(list(LINES)), rng.choice([0, rng.randrange(len(found))])
    found[at : at + 1] = LINES[kind](found[at], rng)
    path.write_bytes("\n".join(found).encode(errors="surrogateescape"))
    return f"line: {kind}"


LINES: dict[str, Callable[[str, random.Random], list[str]]] = {
    "gone": lambda line, rng: [],
    "twice": lambda line, rng: [line, line],
    "empty": lambda line, rng: ["", line],
    "blank": lambda line, rng: ["  \t ", line],
    "cut": lambda line, rng: [line[: len(line) // 2]],
    "a quote more": lambda line, rng: [line[: (at := rng.randint(0, len(line)))] + '"' + line[at:]],
    "a quote less": lambda line, rng: [line.replace('"', "", 1)],
    "quoted all over": lambda line, rng: [f'"{line}"'],
    "an open quote": lambda line, rng: [f'"{line}'],
    "a separator more": lambda line, rng: [line + rng.choice([",", ";", "\t", ",,,,"])],
    "no separator": lambda line, rng: [line.replace(",", "").replace(";", "").replace("\t", "")],
    "NUL": lambda line, rng: [line[: (at := rng.randint(0, len(line)))] + "\0" + line[at:]],
    "stray byte": lambda line, rng: [line[: (at := rng.randint(0, len(line)))] + "\udcff" + line[at:]],
    "huge": lambda line, rng: [line.replace("a", "a" * 10**6, 1)],
    "another header": lambda line, rng: ["id,text,label"],
    "comment": lambda line, rng: ["# a comment", line],
}


def header(path: Path, rng: random.Random) -> str:
    """Columns that are missing, twice, renamed, in other letters; nothing but a header; nothing at all."""
    kind = rng.choice(
        [
            "empty",
            "only the first line",
            "gone",
            "text,text,label",
            "text",
            "TEXT,LABEL",
            " text, label",
            "label,text",
            ",,",
            '""',
        ]
    )
    first, _, rest = path.read_bytes().partition(b"\n")
    new = {"empty": b"", "only the first line": first, "gone": rest}
    path.write_bytes(new.get(kind, kind.encode() + b"\n" + rest))
    return f"header: {kind}"


NONSENSE: list[Any] = [
    None,
    True,
    0,
    -1,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\0",
    "\ud800",
    [],
    {},
    ["a"],
    {"text": "a"},
]
RAW = [
    "[]",
    "null",
    "1",
    '"text"',
    "{",
    "{}",
    "{'text': 'a', 'label': 'joy'}",
    '{"text": "a", "label": "joy"} {"text": "b", "label": "joy"}',
    '{"text": "a", "label": "joy"},',
    '{"text": "a", "text": "b", "label": "joy"}',
    '{"text": "a", "label": {"label": "joy", "label": "joy"}}',
    '{"text": "a", "label": ' + "9" * 5000 + "}",
    '{"text": ' + "[" * 10**5 + "}",
    '{"text": "\\ud83d", "label": "joy"}',
]


def json_values(path: Path, rng: random.Random) -> str:
    """Rows of JSON whose values are of other types, nested, twice, missing; and rows that are no JSON."""
    found = path.read_text(encoding="utf-8").split("\n")[:-1]
    for at in rng.sample(range(len(found)), rng.choice([1, 3, 40])):
        fields = json.loads(found[at])
        fields[rng.choice(["text", "label"])] = rng.choice(NONSENSE)
        found[at] = rng.choice([json.dumps(fields), json.dumps(fields), rng.choice(RAW)])
    path.write_text("\n".join(found) + "\n", encoding="utf-8")
    return "JSON: other values"


def parquet_columns(path: Path, rng: random.Random) -> str:
    """Columns of other types: nested, numbers, dates, nulls, bytes that are no text; columns twice or missing."""
    kind = rng.choice(list(COLUMNS))
    column = rng.choice(["text", "label"])
    table = pq.read_table(path)
    values = COLUMNS[kind](table.num_rows)
    if values is None:
        table = table.drop_columns([column])
    elif kind == "twice":
        table = table.append_column(column, table[column])
    else:
        table = table.set_column(table.schema.get_field_index(column), column, values)
    pq.write_table(table, path)
    return f"parquet: {kind}"


def names(path: Path, rng: random.Random) -> str:
    """Label names that `datasets` declares in the schema: too few, twice, empty, of another type, no JSON."""
    found = rng.choice(
        [["joy"], ["joy", "joy"], [], ["", "a"], ["\0", "b"], [1, 2], "joy", 3, None, {"a": 1}, ["joy", "anger", "fear"]]
    )
    text = json.dumps({"info": {"features": {"label": {"names": found}}}})
    table = pq.read_table(path)
    numbers = pa.array([i % 3 for i in range(table.num_rows)])
    table = table.set_column(table.schema.get_field_index("label"), "label", numbers)
    pq.write_table(table.replace_schema_metadata({"huggingface": rng.choice([text, text, text[:-3], "[" * 10**5])}), path)
    return "parquet: label names"


COLUMNS: dict[str, Callable[[int], Any]] = {
    "gone": lambda n: None,
    "twice": lambda n: [],
    "numbers": lambda n: pa.array(range(n)),
    "floats": lambda n: pa.array([0.5] * n),
    "bools": lambda n: pa.array([True] * n),
    "nulls": lambda n: pa.nulls(n),
    "some nulls": lambda n: pa.array([None if i % 5 == 0 else "joy" for i in range(n)]),
    "dates": lambda n: pa.array([10**9] * n, pa.timestamp("s")),
    "far dates": lambda n: pa.array([2**62] * n, pa.timestamp("us")),
    "bytes": lambda n: pa.array([b"joy"] * n),
    "no UTF-8": lambda n: pa.array([b"caf\xe9" if i % 4 == 0 else b"joy" for i in range(n)], pa.binary()).view(pa.string()),
    "dictionary": lambda n: pa.array(["joy"] * n).dictionary_encode(),
    "lists": lambda n: pa.array([["joy"]] * n),
    "structs": lambda n: pa.array([{"text": "joy", "label": "joy"}] * n),
    "large strings": lambda n: pa.array(["joy"] * n, pa.large_string()),
    "decimals": lambda n: pa.array([1] * n).cast(pa.decimal128(30, 2)),
}

TEXT_KINDS = [bytes_anywhere, encoding, byte_order_mark, line_ends, lines, lines, header]
KINDS = {
    "csv": TEXT_KINDS,
    "tsv": TEXT_KINDS,
    "txt": TEXT_KINDS,
    "jsonl": [*TEXT_KINDS, json_values, json_values],
    "parquet": [bytes_anywhere, bytes_anywhere, bytes_anywhere, parquet_columns, names],
}


def damage_data(path: Path, rng: random.Random) -> str:
    """One damage to the file; what it was."""
    return rng.choice(KINDS[path.suffix[1:]])(path, rng)
