"""scripts/study/table2.py: two made-up tasks with the demo's model, by both protocols."""

import json

import pytest
from support.command_line import call
from support.folders import save_base
from support.trainings import train_in_process

from lora_scratch.commands.study import table2
from lora_scratch.errors import ConfigError

SHORT = ["--epochs", 1, "--batch_size", 8, "--max_tokens", 16, "--precision", "fp32", "--threads", 1]


@pytest.fixture
def glue(tmp_path):
    """A folder with a folder of made-up rows for each task."""
    words = ["calm", "loud", "bright", "late", "soft", "early"]
    pairs = [f"{a} {b}\t{b} {a}\t{number}" for number, (a, b) in enumerate((a, b) for a in words for b in words)]
    stsb = [f"{line.rpartition(chr(9))[0]}\t{number / 7:.2f}" for number, line in enumerate(pairs)]
    cola = [f"{a} {b}\t{int(a < b)}" for a in words for b in words]
    for name, header, lines in (("stsb", "sentence1\tsentence2\tscore", stsb), ("cola", "sentence\tlabel", cola)):
        (tmp_path / "glue" / name).mkdir(parents=True)
        for split, part in (("train", lines[:28]), ("dev", lines[20:])):
            (tmp_path / "glue" / name / f"{split}.tsv").write_text("\n".join([header, *part]) + "\n", encoding="utf-8")
    return tmp_path / "glue"


def run(tmp_path, *flags):
    base = tmp_path / "base"
    if not base.exists():
        save_base(base, labels=("a", "b"))
    return call(table2, "--model", base, "--output_dir", tmp_path / "study", *flags, *SHORT)


def test_the_table_has_the_papers_figure_and_ours_by_both_protocols(glue, tmp_path, capsys, monkeypatch):
    """Regression on pairs and classes of single texts; a second call trains nothing."""
    places = train_in_process(monkeypatch)
    flags = ["--tasks", "stsb", f"cola={glue / 'cola'}", "--data", glue, "--methods", "bitfit", "--seeds", 0]
    assert run(tmp_path, *flags) == 0
    lines = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert cells[0] == ["task", "score", "method", "paper (RoBERTa-base)", "ours, paper's protocol", "ours, honest", "seeds"]
    named = {line[0]: line for line in cells}
    assert named["stsb"][1:4] == ["Pearson", "bitfit", "90.8"]
    assert named["cola"][1:4] == ["Matthews", "bitfit", "62.0"]
    written = json.loads((tmp_path / "study" / "table2.json").read_text(encoding="utf-8"))
    assert {(entry["task"], entry["protocol"]) for entry in written["runs"]} == {
        (task, protocol) for task in ("stsb", "cola") for protocol in ("paper", "honest")
    }
    shown = float(named["stsb"][5])
    honest = next(e for e in written["runs"] if (e["task"], e["protocol"]) == ("stsb", "honest"))
    assert shown == pytest.approx(100 * honest["pearson"], abs=0.05)
    assert len(places) == 4
    assert run(tmp_path, *flags) == 0
    assert len(places) == 4


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--tasks", "wnli"], 1, "--tasks: there is no task 'wnli'; expected mnli, sst2"),
        (["--tasks", "rte", "--best_by", "f1"], 2, "--best_by is set for each training"),
        (["--tasks", "rte", "--methods", "lora", "--flags_of", "full", "--rank 2"], 2, "--flags_of full: it is not among"),
        (["--tasks", "rte", "--data", "nowhere"], 1, "nowhere/rte"),
    ],
    ids=str,
)
def test_wrong_usage_ends_before_the_first_training(tmp_path, capsys, flags, code, message):
    """One line."""
    assert run(tmp_path, *flags) == code
    assert message in capsys.readouterr().err


def test_flags_come_from_a_file_too(glue, tmp_path, capsys, monkeypatch):
    """As for the other commands: those of train with them, and typed ones above."""
    seen = {}

    def stop(script, runs, *, processes):
        seen.update(runs)
        raise ConfigError("enough")

    monkeypatch.setattr(table2, "train_all", stop)
    job, flags = tmp_path / "job.yaml", f"tasks: [stsb, cola]\ndata: {glue}\nseeds: [0, 1]\nmethods: [lora]\nrank: 3\n"
    job.write_text(f"{flags}ranks: 3\n")
    assert run(tmp_path, "--config", job) == 1
    assert "there is no flag --ranks; nearest: --rank" in capsys.readouterr().err
    job.write_text(flags)
    assert run(tmp_path, "--config", job, "--seeds", 7) == 1
    assert {(place.parents[2].name, place.name) for place in seen} == {("stsb", "seed-7"), ("cola", "seed-7")}
    assert all("--rank=3" in words for words in seen.values())
    assert "stsb: 28 training rows, 16 validation rows" in capsys.readouterr().out
