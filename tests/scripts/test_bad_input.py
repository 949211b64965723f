"""Bad input through the commands: one clear line on stderr, exit code 1 or 2, nothing written, no traceback."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.alarm import no_hang
from support.command_line import call, train_arguments
from support.damage import reseal
from support.folders import save_base
from support.typed_flags import COMMANDS, command, flags_of, hostile_paths

from lora_scratch.commands import evaluate, predict, train
from lora_scratch.runs.flags import PATHS

SCRIPTS = Path(train.__file__).parent


def one_line(capsys):
    captured = capsys.readouterr().err
    errors = [line for line in captured.splitlines() if "error: " in line]
    assert len(errors) == 1, captured
    assert "Traceback" not in captured
    return errors[0]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--targets", "q_linn"], 1, r"no module is called 'q_linn'.*nearest: q_lin"),
        (["--rank", "0"], 1, "--rank.*0"),
        (["--rank", "33"], 1, "rank.*33.*at most 32"),
        (["--alpha", "0"], 1, "--alpha.*0"),
        (["--dropout", "1"], 1, "--dropout.*1"),
        (["--rank", "eight"], 2, "--rank.*eight"),
        (["--no_such_flag", "1"], 2, "no_such_flag"),
        (["--head_modules", "clasifier"], 1, "clasifier.*nearest: classifier"),
        (["--head_modules", "pre_classifier"], 1, "classifier.* would keep random values"),
        (["--schedule", "step"], 1, "--schedule.*linear or cosine"),
        (["--precision", "fp8"], 1, "--precision.*fp32, bf16, fp16"),
        (["--max_tokens", "2"], 1, "--max_tokens|max_tokens"),
        (["--max_tokens", "1000"], 1, "max_tokens.*1000"),
        (["--epochs", "0"], 1, "--epochs.*at least 1"),
        (["--preset", "emotions"], 2, "--preset.*emotion"),
        (["--label_column", "mood", "--dataset", "ROWS.csv"], 1, "no column 'mood' among .*--label_column"),
    ],
)
def test_a_bad_flag_is_one_line_and_writes_nothing(job, tmp_path, capsys, flags, code, message):
    """Wrong values are refused before any long work."""
    (tmp_path / "ROWS.csv").write_text("text,label\nhello there,a\n")
    flags = [str(tmp_path / flag) if flag == "ROWS.csv" else flag for flag in flags]
    arguments = [*train_arguments(job.base, job.data, tmp_path / "run"), *flags]
    assert call(train, *arguments) == code
    assert re.search(message, one_line(capsys))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, "no such file|not found|does not exist"),
        ("empty.csv", b"", "empty|no rows"),
        ("header.csv", b"text,label\n", "no rows|empty"),
        ("rows.csv", b"text,label\nfine,a\nno label,\nfine,b\n", r"rows\.csv:3.*label"),
        ("rows.csv", b"text,label\nfine,a\n  ,b\n", r"rows\.csv:3.*text"),
        ("rows.csv", b"text,label\nfine,a\ncaf\xe9,b\n", r"rows\.csv:3.*UTF-8"),
        ("rows.doc", b"text", r"rows\.doc.*\.csv"),
        ("rows.jsonl", b'{"text": "fine", "label": "a"}\n{"text": \n', r"rows\.jsonl:2.*JSON"),
        ("rows.parquet", b"PAR1 no", r"rows\.parquet"),
    ],
)
def test_a_bad_data_file_is_named_with_its_line(job, tmp_path, capsys, name, content, message):
    """File and line, and why."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert call(train, *train_arguments(job.base, tmp_path / name, tmp_path / "run")) == 1
    assert re.search(message, one_line(capsys))
    assert not (tmp_path / "run").exists()


def test_bad_rows_are_counted_and_listed_where_they_are_to_be_skipped(job, tmp_path, capsys):
    """In training, and again in every evaluation on those rows."""
    data = shutil.copytree(job.data, tmp_path / "data")
    with open(data / "train.txt", "ab") as file:
        file.write(b"no label\n\x1b[2J\xff;joy\n")
    arguments = train_arguments(job.base, data, tmp_path / "run")
    assert call(train, *arguments, "--epochs", 1, "--skip_bad_rows") == 0
    assert call(evaluate, tmp_path / "run" / "adapter") == 0
    out = capsys.readouterr().out
    assert out.count("left out 2 bad rows:\n") == 2
    assert out.count("train.txt:65: no ';' in 'no label'") == 2
    assert out.count("train.txt:66: the text is not UTF-8: byte 0xff at character 5") == 2
    assert "\x1b" not in out


def test_a_test_label_that_train_lacks_is_named(job, tmp_path, capsys):
    """The model has no output for it."""
    data = shutil.copytree(job.data, tmp_path / "data")
    with open(data / "test.txt", "a") as file:
        file.write("i am bored;boredom\n")
    assert call(train, *train_arguments(job.base, data, tmp_path / "run")) == 1
    assert "boredom" in (line := one_line(capsys))
    assert "test.txt:25" in line


def test_a_run_folder_is_never_written_over(job, capsys):
    """Yesterday's run is not lost to today's."""
    before = (job.run / "report.json").read_bytes()
    assert call(train, *train_arguments(job.base, job.data, job.run)) == 1
    assert "holds files already" in one_line(capsys)
    assert (job.run / "report.json").read_bytes() == before


def truncate(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def edit(change):
    def apply(folder):
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})
        reseal(folder)  # damage before it was written

    return apply


def drop_one(tensors):
    del tensors[next(name for name in tensors if "lora_A" in name)]


def add_one(tensors):
    tensors["base_model.model.extra.lora_A.weight"] = tensors[next(iter(tensors))].clone()


def one_nan(tensors):
    tensors[next(name for name in tensors if "lora_B" in name)][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "safetensors"),
        (edit(drop_one), "lora_A.weight.*missing"),
        (edit(add_one), "extra.*(unexpected|no module)"),
        (edit(one_nan), "lora_B.weight.*NaN"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json.*JSON"),
        (lambda folder: (folder / "provenance.json").write_text("[]"), "provenance.json"),
    ],
    ids=["truncated", "one missing", "one too many", "one NaN", "no config", "broken config", "broken provenance"],
)
def test_a_damaged_adapter_is_refused(job, tmp_path, capsys, damage, message):
    """Each damage is one typed error, and nothing is predicted."""
    folder = shutil.copytree(job.adapter, tmp_path / "adapter")
    damage(folder)
    assert call(predict, folder, "some text") == 1
    assert re.search(message, one_line(capsys))


def test_an_adapter_for_another_base_is_refused(job, tmp_path, capsys):
    """Same shapes, other weights: no error in any other tool, and nonsense as a result."""
    other = save_base(tmp_path / "other", labels=("negative", "positive"), seed=1)
    assert call(evaluate, job.adapter, "--model", other) == 1
    assert "not the one the adapter was trained on" in one_line(capsys)


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_text_is_refused(job, capsys, text):
    """There is nothing to classify."""
    assert call(predict, job.adapter, "fine", text) == 1
    assert "text 2: the text is empty" in one_line(capsys)
    assert capsys.readouterr().out == ""


def test_a_file_that_is_not_utf8_is_named_with_its_line(job, tmp_path, capsys):
    """Latin-1 is a common surprise."""
    (tmp_path / "texts.txt").write_bytes(b"fine\ncaf\xe9\n")
    assert call(predict, job.adapter, "--file", tmp_path / "texts.txt") == 1
    assert "texts.txt:2: the text is not UTF-8: byte 0xe9 at character 4" in one_line(capsys)


def test_the_old_flag_of_the_adapter_is_refused_with_the_new_form(job, capsys):
    """The adapter comes first and without a flag."""
    for module in (predict, evaluate):
        assert call(module, "--adapter", job.adapter) == 2
        assert "the adapter is named first, without a flag" in one_line(capsys)


@pytest.mark.parametrize("flags", [["--precision", "fp32", "ADAPTER", "fine"], ["ADAPTER", "--precision", "fp32", "fine"]])
def test_flags_may_stand_between_the_adapter_and_its_texts(job, capsys, flags):
    """As with every other command."""
    assert call(predict, *[job.adapter if flag == "ADAPTER" else flag for flag in flags]) == 0
    assert '"text": "fine"' in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["text", "--file", "x"]])
def test_predict_takes_texts_or_a_file(job, capsys, arguments):
    """One of the two, else usage."""
    assert call(predict, job.adapter, *arguments) == 2
    assert "one of the three" in one_line(capsys)


def test_the_real_job_without_a_hub_ends_quickly_in_one_line(tmp_path):
    """`--preset emotion` offline: what could not be reached, what to pass instead, exit 1, no run folder."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, str(SCRIPTS / "train.py"), "--preset", "emotion"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(errors) == 1, done.stderr
    assert "dair-ai/emotion" in errors[0]
    assert "--dataset" in errors[0]
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_how_a_command_is_called(name, capsys):
    """Examples are those of the console command, but for measurements, which are made in a checkout."""
    assert call(command(name), "--help") == 0
    out = capsys.readouterr().out
    assert f"lora-scratch {name} " in out or "scripts/benchmarks/" in out
    assert all(f"lora-scratch {other} " not in out for other in COMMANDS if other != name)


def test_help_of_train_is_grouped_by_subject(capsys):
    """A title for the fields of a dataclass; --help itself has no other company."""
    assert call(train, "--help") == 0
    blocks = capsys.readouterr().out.split("\n\n")
    titles = {block.partition(":\n")[0]: block for block in blocks if ":\n  -" in block}
    assert set(titles) == {"options", "model", "data", "adapter", "training", "run"}
    assert "--base_precision" in titles["model"]
    assert "--rank" in titles["adapter"]
    assert "--config" in titles["run"]
    assert titles["options"].count("--") == 1


# Flags that take any text and name no place; every other flag that takes a text is tried with hostile paths.
NO_PATHS = {
    "base_precision",
    "best_by",
    "bias",
    "class_weights",
    "contenders",
    "device",
    "exclude",
    "flags_of",
    "flags_of_full",
    "flags_of_ours",
    "head_modules",
    "labels",
}
NO_PATHS |= {"head_start", "init", "label_column", "measures", "module", "only", "part", "precision", "preset", "push"}
NO_PATHS |= {"repository", "schedule", "split", "targets", "text", "text_column", "texts", "trainable", "variant"}
NO_PATHS |= {"labels", "pair", "pair_column", "prefix", "task", "tasks", "widget"}


def is_path(flag):
    return flag.action.dest in PATHS or str(flag) == "predict --adapters"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_that_takes_a_text_is_known_to_be_a_path_or_none(name):
    """A new flag is added to PATHS in runs/flags.py, or to NO_PATHS here."""
    for flag in flags_of(name):
        assert is_path(flag) or flag.action.dest in NO_PATHS or not flag.is_text, flag


@pytest.mark.parametrize("name", COMMANDS)
def test_a_hostile_path_is_one_line_and_writes_nothing(name, tmp_path, monkeypatch, capsys):
    """Exit 1 with the flag, the path and the reason, before any work, on every Python."""
    monkeypatch.chdir(tmp_path)
    paths = hostile_paths(tmp_path)
    for flag in filter(is_path, flags_of(name)):
        for path, reason in paths.values():
            error = refusal(flag, path, 1, capsys)
            assert error.startswith(f"error: {flag.name} "), error
            assert f": can't be used ({reason}); expected " in error
            assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"file", "loop"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_number_that_no_computer_counts_to_is_one_line(name, tmp_path, monkeypatch, capsys):
    """40 digits, with a minus too, and more digits than Python reads: exit 1 or 2, before any work."""
    monkeypatch.chdir(tmp_path)
    for flag in flags_of(name):
        for value in ("9" * 40, "-" + "9" * 40, "9" * 5000) if flag.is_whole_number else ():
            error = refusal(flag, value, (1, 2), capsys).splitlines()[-1]
            assert re.search(rf"error: .*{flag.name}", error[:80]), error[:80]
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_more_processes_or_threads_than_a_machine_has_are_refused(name, tmp_path, monkeypatch, capsys):
    """4,096 at most; with 2^62 the operating system would be the one to say no, in the middle of the work."""
    monkeypatch.chdir(tmp_path)
    for flag in flags_of(name):
        for value in ("4097", str(2**62)) if flag.name in ("--processes", "--threads") else ():
            assert re.search(r"found \d+; expected [01] to 4096", refusal(flag, value, (1, 2), capsys))
    assert [*tmp_path.iterdir()] == []


def refusal(flag, value, code, capsys):
    """What is said on stderr of one value; standard output stays open, as it was, and empty."""
    stdout = sys.stdout
    with no_hang():
        found = call(command(flag.command), *flag.line(value))
    captured = capsys.readouterr()
    assert found in (code if isinstance(code, tuple) else (code,)), (str(flag), value[:20], captured.err)
    assert sum("error: " in line for line in captured.err.splitlines()) == 1, captured.err
    assert (captured.out, sys.stdout, sys.stdout.closed) == ("", stdout, False)
    return captured.err
