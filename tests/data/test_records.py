"""lora_scratch/data/records.py: the values of a record as Python objects, exact, or an error that names their place."""

import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lora_scratch.data.record_files import open_records
from lora_scratch.data.records import TextColumns
from lora_scratch.errors import DataError

READ = TextColumns("text")
NOON = 12 * 3600 * 10**9
TIMES = ([1, NOON + 2000, NOON, None], ["00:00:00.000000001", datetime.time(12, 0, 0, 2), datetime.time(12), None])
BAD_TEXT = pa.array([b"caf\xe9", b"fine"])
NOT_UTF8 = pa.Array.from_buffers(pa.string(), 2, BAD_TEXT.buffers())


def chunk_of(place, columns):
    """Return the only chunk of a .parquet file with these columns."""
    pq.write_table(pa.table(columns), place / "in.parquet")
    (chunk,) = open_records(place / "in.parquet", READ).chunks()
    return chunk


def json_chunk(place, *lines):
    """Return the only chunk of a .jsonl file with these lines."""
    (place / "in.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (chunk,) = open_records(place / "in.jsonl", READ).chunks()
    return chunk


def test_times_keep_their_nanoseconds(tmp_path):
    """As ISO text with nine digits where Python's time has too few; elsewhere as before."""
    numbers, expected = TIMES
    chunk = chunk_of(tmp_path, {"text": ["a"] * 4, "when": pa.array(numbers, pa.time64("ns"))})
    assert [fields["when"] for fields in chunk.objects] == expected


def test_times_inside_other_values_keep_their_nanoseconds(tmp_path):
    """In lists, structs and maps; those are otherwise as pyarrow gives them."""
    numbers, expected = TIMES
    time = pa.time64("ns")
    columns = {
        "text": ["a"],
        "list": pa.array([numbers], pa.list_(time)),
        "struct": pa.array([{"t": 1, "n": 5}], pa.struct([("t", time), ("n", pa.int8())])),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), time)),
    }
    (fields,) = chunk_of(tmp_path, columns).objects
    assert fields["list"] == expected
    assert fields["struct"] == {"t": "00:00:00.000000001", "n": 5}
    assert fields["map"] == [("k", "00:00:00.000000001")]


@pytest.mark.parametrize(("kind", "end"), [(pa.timestamp("ns"), "T00:00:00.000000001"), (pa.duration("ns"), "0.000000001S")])
def test_timestamps_and_durations_keep_their_nanoseconds(tmp_path, kind, end):
    """Their objects have an ISO form with nine digits."""
    (fields,) = chunk_of(tmp_path, {"text": ["a"], "when": pa.array([1], kind)}).objects
    assert fields["when"].isoformat().endswith(end)


def test_text_of_a_bad_row_has_escapes_for_what_is_not_utf8(tmp_path):
    """As a text file's row has; the other rows are whole."""
    chunk = chunk_of(tmp_path, {"text": NOT_UTF8, "kind": NOT_UTF8.dictionary_encode()})
    assert isinstance(chunk.texts[0], DataError)
    assert chunk.texts[1] == "fine"
    assert [fields["text"] for fields in chunk.objects] == [r"caf\udce9", "fine"]


def test_value_that_python_can_not_hold_names_row_and_column(tmp_path):
    """Text that is not UTF-8 in a row whose text is good, and a date of the year 200,000."""
    chunk = chunk_of(tmp_path, {"text": ["a", "b"], "more": NOT_UTF8})
    with pytest.raises(DataError, match=r"in\.parquet:1: column 'more' is not UTF-8; .*write to a \.parquet file"):
        _ = chunk.objects
    far = pa.array([0, 2**62], pa.timestamp("us"))
    with pytest.raises(DataError, match=r"in\.parquet:2: column 'far' can't be read \(.*write to a \.parquet file"):
        _ = chunk_of(tmp_path, {"text": ["a", "b"], "far": far}).objects


@pytest.mark.parametrize("deep", ["[" * 600 + "]" * 600, '{"k":' * 600 + "1" + "}" * 600])
def test_value_that_is_nested_too_deep_is_the_fault_of_its_row(tmp_path, deep):
    """Also where the text is bad too: its record can be written, without what is too deep."""
    chunk = json_chunk(tmp_path, '{"text": "a"}', f'{{"text": "a", "m": {deep}}}', f'{{"text": "", "m": {deep}}}')
    assert str(chunk.texts[1]).startswith(
        f"{tmp_path}/in.jsonl:2: column 'm' is nested too deep; expected at most 64 levels"
    )
    assert "in.jsonl:3: the text is empty" in str(chunk.texts[2])
    assert [fields.get("m") for fields in chunk.objects[1:]] == [None, None]


@pytest.mark.parametrize("value", ["NaN", "[NaN]", "Infinity"])
def test_nan_that_is_passed_on_is_no_fault(tmp_path, value):
    """A .parquet file's is none either; what JSON can't hold is null in the output."""
    (text,) = json_chunk(tmp_path, f'{{"text": "a", "v": {value}}}').texts
    assert text == "a"


@pytest.mark.parametrize("value", ['"\\ud800"', '["\\ud800"]', '{"\\ud800": 1}'])
def test_lone_surrogate_is_the_fault_of_its_row(tmp_path, value):
    """At any depth, in keys too."""
    (text,) = json_chunk(tmp_path, f'{{"text": "a", "v": {value}}}').texts
    assert "in.jsonl:1: column 'v' is not UTF-8; expected UTF-8" in str(text)
