"""scripts/benchmarks/gpu_acceptance.py on a CPU: everything runs in small form, what needs a GPU is skipped by name."""

import json

import pytest
from support.command_line import call
from support.measuring import measured_here

from lora_scratch.commands.benchmarks import gpu_acceptance
from lora_scratch.commands.benchmarks.acceptance import PARTS, runner, speed
from lora_scratch.commands.benchmarks.acceptance.finding import Finding, Part
from lora_scratch.errors import LoraScratchError

NEED_A_GPU = ("no-host-wait", "memory", "gpu-tests")


@pytest.fixture
def in_process(monkeypatch):
    """No process for each part."""
    monkeypatch.setattr(runner, "in_a_process", measured_here(gpu_acceptance))


@pytest.mark.usefixtures("in_process")
def test_the_whole_script_runs_on_a_cpu(job, tmp_path, capsys):
    """Nothing fails and nothing is called proven; a line for each part, a table, and all of it as JSON."""
    inputs = ["--model", job.base, "--dataset", job.data]
    assert call(gpu_acceptance, *inputs, "--device", "cpu", "--json", tmp_path / "all.json") == 0
    report = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert report["accepted"] is True
    assert [each["part"] for each in report["results"]] == [part.name for part in PARTS]
    statuses = {each["part"]: each["status"] for each in report["results"]}
    expected = {part.name: "skipped" if part.name in NEED_A_GPU else "small form" for part in PARTS}
    assert statuses == expected
    figures = {each["part"]: each["figures"] for each in report["results"]}
    for name in ("speed-32", "speed-256", "speed-1024"):
        assert {"ours-bf16", "peft-best", "peft", "against_peft-best"} <= figures[name].keys()
    assert 0 <= figures["minilm"]["accuracy"] <= 1
    assert figures["prediction"]["agreement"] == 1.0
    out = capsys.readouterr().out
    for name in NEED_A_GPU:
        assert f"skipped: {name}: no GPU\n" in out
    assert "| part | kind | result | s | finding |" in out
    unproven = "graph-vs-eager, attention-kernels, rows-vs-padded, rows-graph-vs-eager, fallback, out-of-memory, resume"
    assert f"not proven and not judged, since there is no GPU: {unproven}" in out
    assert "no GPU; " in out
    assert out.splitlines()[-1] == "nothing was judged: no GPU"


@pytest.mark.usefixtures("in_process")
def test_rows_of_peft_are_skipped_by_name_where_it_is_not_installed(monkeypatch, capsys):
    """Ours is measured all the same."""
    monkeypatch.setattr(speed, "find_spec", lambda package: None if package == "peft" else object())
    assert call(gpu_acceptance, "--device", "cpu", "--only", "speed-32") == 0
    out = capsys.readouterr().out
    assert "skipped: speed-32: peft-best: peft not installed\nskipped: speed-32: peft: peft not installed\n" in out
    assert "small form: speed-32: small form on a CPU, batch 4: ours-bf16 " in out


@pytest.mark.usefixtures("in_process")
def test_a_part_without_its_inputs_is_skipped_by_name(capsys):
    """The dataset and the model are optional."""
    assert call(gpu_acceptance, "--device", "cpu", "--only", "minilm") == 0
    assert "skipped: minilm: no --model and --dataset\n" in capsys.readouterr().out


@pytest.mark.torture
def test_a_part_runs_in_a_process_of_its_own(tmp_path, capsys):
    """With the flags of the command; its figures come back. test_benchmark.py starts one by the same function."""
    assert call(gpu_acceptance, "--device", "cpu", "--only", "profile", "--json", tmp_path / "all.json") == 0
    (result,) = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["results"]
    assert result["status"] == "small form"
    assert result["figures"]["eager"]["operators_per_step"] > 100
    assert result["figures"]["eager"]["host_us_per_step"] > 0
    assert result["machine"]["gpu"] is None


def test_a_failing_part_is_reported_and_the_others_run(monkeypatch, tmp_path, capsys):
    """The exit code is 1, and the JSON is written all the same."""

    def run(command, *, limit_s, environment):
        if command[-1] == "resume":
            raise LoraScratchError("ended with -11: no output", where="resume")
        return {"finding": {"line": "fine", "holds": True, "figures": {}, "skipped": []}, "machine": {}}

    monkeypatch.setattr(runner, "in_a_process", run)
    arguments = ["--only", "fallback", "resume", "cpu-vs-cuda", "--device", "cpu", "--json", tmp_path / "all.json"]
    assert call(gpu_acceptance, *arguments) == 1
    out, err = capsys.readouterr()
    assert "failed: resume: ended with -11: no output" in out
    assert out.splitlines()[-1] == "NOT ACCEPTED: resume"
    assert err == "error: NOT ACCEPTED: resume; the table says why\n"
    report = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert (report["accepted"], len(report["results"])) == (False, 3)


def test_what_a_part_prints_is_its_finding_and_the_machine(monkeypatch, capsys):
    """As JSON, in its last line; the process that started it reads that."""
    fine = Part("resume", "proof", 1, lambda setup: Finding("fine", holds=True))
    monkeypatch.setattr(gpu_acceptance, "PARTS", [fine])
    assert call(gpu_acceptance, "--device", "cpu", "--part", "resume") == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["finding"] == {"line": "fine", "holds": True, "figures": {}, "skipped": []}
    assert {"python", "torch", "peft", "accelerate"} <= printed["machine"]["versions"].keys()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--only", "fun"], "--only: found 'fun'; expected graph-vs-eager, "),
        (["--part", "fun"], "--part: found 'fun'; expected graph-vs-eager, "),
        (["--minutes", "0"], "--minutes: found 0.0; expected a number of minutes above 0"),
        (["--minutes", "nan"], "--minutes: found nan"),
        (
            ["--device", "cuda:1"],
            "--device: found 'cuda:1'; expected auto, cuda or cpu; choose one of several GPUs with CUDA",
        ),
    ],
)
def test_wrong_flags_are_one_line(flags, message, capsys):
    """Before anything runs."""
    assert call(gpu_acceptance, *flags) == 1
    assert message in capsys.readouterr().err
