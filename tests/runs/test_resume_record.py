"""lora_scratch/runs/resume.py: what config.json and report.json of a run may hold."""

import json

import pytest
from support.report_pages import report

from lora_scratch.errors import ConfigError
from lora_scratch.runs import check_same_run, is_finished, recorded_run
from lora_scratch.runs.resume import SEAL, recorded_flags
from lora_scratch.runtime.atomic import write_json
from lora_scratch.serialization.provenance import sealed

RECORD = {"TrainingConfig": {"epochs": 2}, "LoRAConfig": {"rank": 4}, "data": {"source": "rows"}}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"\xff", b"[" * 10**5, b"1" * 5000])
def test_a_run_with_a_damaged_report_is_not_finished(tmp_path, content):
    """An empty file is what a full disk or a power cut leaves; the next --resume writes it again."""
    assert not is_finished(tmp_path)
    (tmp_path / "report.json").write_bytes(content)
    assert not is_finished(tmp_path)
    write_json(tmp_path / "report.json", report().as_json())
    assert is_finished(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 10**5, b'{"TrainingConfig": ' + b"1" * 5000 + b"}"])
def test_a_damaged_record_is_one_line(tmp_path, content):
    """And never a new run in its place."""
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json: (not valid JSON|is not the record of a run)"):
        recorded_run(tmp_path)


def test_everything_wrong_in_a_record_is_one_error(tmp_path):
    """Types, ranges, and what would end in the adapter's provenance.json after the training."""
    record = {
        "TrainingConfig": {"epochs": "2", "seed": True},
        "LoRAConfig": {"rank": 0},
        "RunOptions": 3,
        "command": ["train"],
        "data": {"source": 5},
        "base": {"name": "x", "tensors": {"w": {"float32": "zz"}}},
    }
    write_json(tmp_path / "config.json", record)
    with pytest.raises(ConfigError) as caught:
        recorded_run(tmp_path)
    places = ["TrainingConfig.epochs", "TrainingConfig.seed", "--rank: found 0", "RunOptions is 3", "command", "data.source"]
    assert [place for place in [*places, "base.tensors.w.float32"] if place not in str(caught.value)] == []


def test_flags_come_from_the_sections_of_options_alone(tmp_path):
    """A section of another name sets nothing, and a folder of another time neither."""
    write_json(tmp_path / "config.json", {**RECORD, "EvilOptions": {"model": "x"}, "RunOptions": {"output_dir": "y"}})
    assert recorded_flags(recorded_run(tmp_path)) == {"epochs": 2, "rank": 4}


def test_a_difference_is_told_on_one_line_without_driving_the_terminal(capsys):
    """Names in the record come from a file too."""
    check_same_run({"versions": {"a\x1b[2J\nb": "1"}}, {"versions": {}}, folder="run")
    assert capsys.readouterr().err == "resume: versions.a\\x1b[2J b is None, in the run '1'\n"


def test_the_record_is_read_as_it_was_written(tmp_path):
    """Entries that are not asked for stay."""
    write_json(tmp_path / "config.json", {**RECORD, "more": [1]})
    assert recorded_run(tmp_path) == json.loads(json.dumps({**RECORD, "more": [1]}))


def test_a_record_that_was_changed_after_the_run_wrote_it_is_refused(tmp_path):
    """Steps at one learning rate would be told as steps at another. A run of an earlier version has no digest."""
    record = {**RECORD, "TrainingConfig": {**RECORD["TrainingConfig"], "learning_rate": 1e-3}}
    written = sealed(record, seal=SEAL)
    write_json(tmp_path / "config.json", written)
    assert recorded_run(tmp_path) == json.loads(json.dumps(record))
    written["TrainingConfig"]["learning_rate"] = 0.1
    write_json(tmp_path / "config.json", written)
    with pytest.raises(ConfigError, match=r"config\.json: was changed after the run wrote it; .*put it back"):
        recorded_run(tmp_path)
