"""lora_scratch/deploy/output_tables.py: whatever a table holds is read again as it was, in every form."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lora_scratch.data.record_files import open_records
from lora_scratch.data.records import Chunk, InputTable, TextColumns
from lora_scratch.deploy.answers import AnswerFormat, json_value
from lora_scratch.deploy.output_tables import CsvWriter, JsonWriter, ParquetWriter, cell, open_output
from lora_scratch.errors import ConfigError, DataError
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


def rewritten(source, form, answers=FORMAT):
    """Return the path of a copy of the table in this form, with an answer to each record that has a text."""
    table, output = open_records(source, TextColumns("text")), source.with_name(f"out.{form}")
    with open_output(str(output), table, answers) as writer:
        for chunk in table.chunks():
            writer.write(chunk, [text if isinstance(text, DataError) else ANSWER for text in chunk.texts])
    return output


def refused(source, form, answers=FORMAT):
    """Return the error that the rewriting raises. No file is left."""
    with pytest.raises((DataError, ConfigError)) as error:
        rewritten(source, form, answers)
    assert [path.name for path in source.parent.iterdir()] == [source.name]
    return str(error.value)


def json_lines(place, *lines):
    """Write the lines."""
    (place / "in.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return place / "in.jsonl"


def parquet(place, **columns):
    """Write the columns."""
    pq.write_table(pa.table(columns), place / "in.parquet")
    return place / "in.parquet"


@pytest.mark.parametrize("source", ["jsonl", "parquet"])
def test_scores_of_the_input_are_not_overwritten_in_json_lines(tmp_path, source):
    """They are refused as a label is; in a table, which has no column `scores`, they stay."""
    lines = json_lines(tmp_path, '{"text": "a", "scores": [1, 2]}') if source == "jsonl" else None
    path = lines or parquet(tmp_path, text=["a"], scores=[[1, 2]])
    message = refused(path, "jsonl")
    assert f"{path}:1: the input has a column 'scores' already, which would be overwritten" in message
    assert "--prefix predicted_ makes predicted_scores" in message
    assert pq.read_table(rewritten(path, "parquet"))["scores"].to_pylist() == [[1, 2]]
    prefixed = AnswerFormat(FORMAT.task, prefix="p_")
    assert json.loads(rewritten(path, "jsonl", prefixed).read_text(encoding="utf-8"))["scores"] == [1, 2]


def test_remedy_of_a_taken_name_helps_with_a_prefix_too(tmp_path):
    """The prefix that it proposes is a longer one."""
    path = json_lines(tmp_path, '{"text": "a", "predicted_label": 1}')
    message = refused(path, "csv", AnswerFormat(FORMAT.task, prefix="predicted_"))
    assert "--prefix predicted_predicted_ makes predicted_predicted_label" in message


@pytest.mark.parametrize("prefix", ["", "p_"])
def test_label_with_the_name_of_a_column_of_top_is_refused(tmp_path, prefix):
    """With a prefix too, since both get it; without --top and in JSON lines there is no such column."""
    task = make_task("multi_label", ("joy", "label_1"))
    path = json_lines(tmp_path, '{"text": "a"}')
    message = refused(path, "csv", AnswerFormat(task, 2, prefix=prefix, multi_hot=True))
    assert message.startswith("--output: a label and an added column are both 'label_1'; write to a .jsonl file")
    assert message.endswith("or leave --top out")
    assert list(AnswerFormat(task, multi_hot=True).columns) == ["joy", "label_1"]


def test_label_with_the_name_of_the_error_column_is_refused():
    """The remedy names the flag that adds it."""
    task = make_task("multi_label", ("joy", "error"))
    with pytest.raises(ConfigError, match=r"are both 'error'; write to a \.jsonl file, or leave --skip_bad_rows out"):
        _ = AnswerFormat(task, errors=True, multi_hot=True).columns


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_nanoseconds_of_a_time_are_written(tmp_path, form):
    """No two times become one."""
    path = parquet(tmp_path, text=["a"] * 2, when=pa.array([1, 2], pa.time64("ns")))
    text = rewritten(path, form).read_text(encoding="utf-8")
    assert all(f"00:00:00.00000000{digit}" in text for digit in (1, 2))


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_value_nested_too_deep_is_the_error_of_its_row_in_every_form(tmp_path, form):
    """The row keeps its other columns."""
    path = json_lines(tmp_path, f'{{"text": "a", "m": {"[" * 600}{"]" * 600}}}', '{"text": "b"}')
    output = rewritten(path, form, AnswerFormat(FORMAT.task, errors=True))
    text = str(pq.read_table(output).to_pylist()) if form == "parquet" else output.read_text(encoding="utf-8")
    assert "in.jsonl:1: column 'm' is nested too deep" in text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"text": "a", "m": {}}'], "in.jsonl: column 'm' can't be written to .parquet ("),
        (
            [*['{"text": "a", "id": 9007199254740993}'] * 256, '{"text": "a", "id": 1.5}'],
            "in.jsonl:1 to {}:256: column 'id' can't be written to .parquet (",
        ),
        ([f'{{"text": "a", "m": {"[" * 60}1{"]" * 60}}}'], "in.jsonl: column 'm' can't be written to .parquet ("),
    ],
)
def test_values_that_parquet_can_not_hold_are_one_line_and_json_lines_keep_them(tmp_path, lines, message):
    """An object without keys, whole numbers that a float rounds, and lists so deep that no reader takes the file."""
    path = json_lines(tmp_path, *lines)
    found = refused(path, "parquet")
    assert found.startswith(f"{tmp_path}/{message.format(path)}")
    assert found.endswith("write to a .jsonl file, which keeps such cells")
    assert len(rewritten(path, "jsonl").read_text(encoding="utf-8").splitlines()) == len(lines)


@pytest.mark.parametrize(("form", "spelled"), [("jsonl", '"v": null'), ("csv", "a,nan,"), ("parquet", "'v': nan")])
def test_nan_of_json_is_written_as_that_of_parquet(tmp_path, form, spelled):
    """Null in JSON, which has no NaN."""
    output = rewritten(json_lines(tmp_path, '{"text": "a", "v": NaN}'), form)
    text = str(pq.read_table(output).to_pylist()) if form == "parquet" else output.read_text(encoding="utf-8")
    assert spelled in text
    assert "yes" in text  # the answer


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_row_of_parquet_that_is_not_utf8_is_an_error_in_its_place(tmp_path, form):
    """As one of a text file is; the other rows have answers."""
    raw = pa.array([b"caf\xe9", b"fine"])
    path = parquet(tmp_path, text=pa.Array.from_buffers(pa.string(), 2, raw.buffers()), id=[1, 2])
    output = rewritten(path, form, AnswerFormat(FORMAT.task, errors=True))
    if form == "parquet":
        found = pq.read_table(output, columns=["id", "error"]).to_pylist()
    else:
        lines = output.read_text(encoding="utf-8").splitlines()
        found = list(csv.DictReader(lines)) if form == "csv" else [json.loads(line) for line in lines]
    assert [str(row["id"]) for row in found] == ["1", "2"]
    assert [bool(row.get("error")) for row in found] == [True, False]
    assert "in.parquet:1: the text is not UTF-8" in found[0]["error"]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_bytes_are_refused_with_row_and_column(tmp_path, form):
    """Inside lists too."""
    path = parquet(tmp_path, text=["a", "b"], raw=[[], [b"x"]])
    message = refused(path, form)
    assert message.startswith(f"{path}:2: column 'raw' holds bytes; expected texts")
    assert "write to a .parquet file" in message
