"""lora_scratch/deploy/output_tables.py: whatever a table holds is read again as it was, in every form."""

import csv
import io
import json

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lora_scratch.data.records import Chunk, InputTable, TextColumns
from lora_scratch.deploy.answers import AnswerFormat, json_value
from lora_scratch.deploy.output_tables import CsvWriter, JsonWriter, ParquetWriter, cell
from lora_scratch.errors import DataError
from lora_scratch.tasks import make_task

CELLS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\r\n\t",; \ufeff\x00\x85'), max_size=6)
FORMAT = AnswerFormat(make_task("single_label", ("no", "yes")))
ANSWER = {"label": "yes", "score": 0.75, "scores": {"no": 0.25, "yes": 0.75}}


class Given(InputTable):
    """Rows in memory."""

    def __init__(self, rows):
        super().__init__("given", TextColumns("a"))
        self.rows = rows

    columns = ("a", "b\n,")

    def chunks(self):
        yield Chunk(
            ["place"] * len(self.rows),
            ["x"] * len(self.rows),
            [dict(zip(self.columns, row, strict=True)) for row in self.rows],
        )


def written(writer, table, **options):
    """Return the bytes of the table with an answer to each row."""
    content = io.BytesIO()
    file = io.TextIOWrapper(content, encoding="utf-8", newline="")
    made = writer(file, table, FORMAT, **options)
    for chunk in table.chunks():
        made.write(chunk, [ANSWER] * len(chunk.texts))
    getattr(made, "close", lambda: None)()
    file.flush()
    return content.getvalue()


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4), st.sampled_from(",\t"))
@example([("a\rb", "\r"), ("a\r\n", "\n"), ("", ""), ('"', '""\t,')], ",")
def test_text_table_is_read_again_as_it_was(rows, delimiter):
    """By Python's reader in strict mode; line breaks, quotes and delimiters in cells too."""
    text = written(CsvWriter, Given(rows), delimiter=delimiter).decode()
    found = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    assert found[0] == [*Given.columns, "label", "score"]
    assert found[1:] == [[*row, "yes", "0.75"] for row in rows]


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4))
def test_json_lines_and_parquet_are_read_again_as_they_were(rows):
    """One object a line, whatever breaks stand in it."""
    lines = written(JsonWriter, Given(rows)).decode().splitlines()
    assert [json.loads(line) for line in lines] == [{**dict(zip(Given.columns, row, strict=True)), **ANSWER} for row in rows]
    table = pq.read_table(io.BytesIO(written(ParquetWriter, Given(rows))))
    assert [tuple(row.values()) for row in table.to_pylist()] == [(*row, "yes", 0.75) for row in rows]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("", ""),
        (True, "true"),
        (7, "7"),
        (0.1, "0.1"),
        (1e-30, "1e-30"),
        ({"a": [None, "é"]}, '{"a": [null, "é"]}'),
    ],
)
def test_value_has_one_spelling_in_a_text_table(value, text):
    """As the header of the module says."""
    assert cell(value) == text


def test_bytes_have_no_json():
    """They are refused with the remedy."""
    with pytest.raises(DataError, match=r"a column holds bytes; .* write to a \.parquet file"):
        json_value({"raw": [b"x"]})
