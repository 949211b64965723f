"""lora_scratch/training/log.py: a damaged line costs history, never the run."""

import json
import math

import pytest

from lora_scratch.training import MetricsLog


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda lines: b"".join(lines), 3),
        (lambda lines: b"".join(lines)[:-5], 2),
        (lambda lines: lines[0] + b"\0" * len(lines[1]) + lines[2], 1),
        (lambda lines: lines[0] + b"\xff\xfe" + lines[1], 1),
        (lambda lines: lines[0] + b"[1, 2]\n" + lines[2], 1),
        (lambda lines: b"", 0),
    ],
    ids=["whole", "cut in a line", "zeros", "foreign bytes", "no object", "empty"],
)
def test_a_resumed_log_keeps_the_lines_before_the_damage(tmp_path, recwarn, damage, kept):
    """The run goes on, and says how much of its history is gone."""
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in range(3):
        log.write(event="note", step=step)
    lines = path.read_bytes().splitlines(keepends=True)
    position = log.position()
    path.write_bytes(damage(lines))
    resumed = MetricsLog(path)
    resumed.rewind(position)
    resumed.write(event="note", step=3)
    assert [event["step"] for event in resumed.events] == [*range(kept), 3]
    assert [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()] == [*range(kept), 3]
    assert [("bytes of earlier lines are gone" in str(w.message)) for w in recwarn] == [True] * (kept < 3)


@pytest.mark.parametrize(
    "line",
    [
        {"event": 1, "step": 1},
        {"event": "step", "step": "1"},
        {"event": "step", "step": 1, "loss": 1.0},
        {"event": "x", "step": 1, "loss": [1]},
        {"event": "x", "step": 1, "loss": "big"},
        {"event": "x", "step": 1, "loss": 10**900},
        {"event": "x", "step": 1, "modules": [1]},
        {"event": "x", "step": 1, "modules": {"q": {"norm": None}}},
    ],
    ids=str,
)
def test_a_line_of_another_form_ends_the_history(tmp_path, recwarn, line):
    """A flipped bit can leave JSON; what is drawn from the events needs their fields."""
    path = tmp_path / "metrics.jsonl"
    good = {"event": "step", "step": 1, "loss": "nan", "learning_rate": 0.1, "gradient_norm": 1, "modules": {"q": {"n": 1}}}
    path.write_text("".join(json.dumps(event) + "\n" for event in (good, line, good)))
    log = MetricsLog(path)
    log.rewind(path.stat().st_size)
    assert log.events == [good]


def test_a_figure_that_is_not_finite_is_text_at_any_depth(tmp_path):
    """JSON has no NaN: other readers would refuse the line."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(event="step", loss=math.nan, modules={"q": {"norm": math.inf}})
    (line,) = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()

    def refuse(word):
        raise AssertionError(word)

    event = json.loads(line, parse_constant=refuse)
    assert (event["loss"], event["modules"]) == ("nan", {"q": {"norm": "inf"}})
