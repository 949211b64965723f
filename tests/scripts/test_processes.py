"""train.py, evaluate.py and predict.py shared by several processes: what one process does, said and written once."""

import json
import shutil
import signal

import numpy as np
import pytest
from support import rank_work
from support.command_line import call, train_arguments
from support.ranks import in_processes

from lora_scratch.commands import evaluate, predict, train
from lora_scratch.commands.study import compare

DETERMINED = ["--dropout", 0, "--accumulation_steps", 2, "--batch_size", 8]


def run_arguments(job, run):
    return [*train_arguments(job.base, job.data, run), *DETERMINED]


@pytest.fixture(scope="module")
def alone(job, tmp_path_factory):
    """The run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    assert call(train, *run_arguments(job, run)) == 0
    return run


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def counts(path):
    """What is counted in a report, nothing that is rounded."""
    found = json.loads(path.read_text(encoding="utf-8"))
    measured = {name: [found[name][key] for key in ("accuracy", "n")] for name in ("baseline", "adapted")}
    return {**measured, "test": found["test"], "parameters": found["parameters"]}


@pytest.mark.parametrize("flags", [[], ["--fsdp", "True"]], ids=["whole", "fsdp"])
def test_two_processes_train_as_one_and_one_of_them_speaks_and_writes(job, alone, tmp_path, flags):
    """Losses to 1e-5, counts exactly, with accumulation; the same files, and the second process in an empty folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "here").mkdir()
    main, other = in_processes(
        rank_work.script, "train", *run_arguments(job, "run"), *flags, places=[tmp_path / "here", elsewhere]
    )
    run = tmp_path / "here" / "run"
    assert (main[0], other[0]) == (0, 0), main[2] + other[2]
    assert "adapted - baseline" in main[1]
    assert other[1] == ""
    assert "baseline:" not in other[2]
    assert list(elsewhere.iterdir()) == []
    assert {path.name for path in run.rglob("*")} == {path.name for path in alone.rglob("*")}
    np.testing.assert_allclose(losses(run), losses(alone), rtol=1e-5)
    assert counts(run / "report.json") == counts(alone / "report.json")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert config["processes"] == 2
    assert config["command"].startswith("torchrun --nproc_per_node 2 ")


def lines(told):
    """What the processes said of errors, in their order."""
    return [line for _, _, err in told for line in err.splitlines() if line.startswith(("error", "interrupted"))]


@pytest.mark.parametrize("flags", [[], ["--fsdp"]], ids=["whole", "fsdp"])
def test_an_evaluation_shared_by_two_processes_is_that_of_one(job, tmp_path, flags):
    """Each row counted once, and every figure exactly; from a shared base the losses to rounding."""
    arguments = [job.adapter, "--temperature", "--json"]
    assert call(evaluate, *arguments, tmp_path / "alone.json") == 0
    told = in_processes(rank_work.script, "evaluate", *arguments, tmp_path / "shared.json", *flags)
    assert [code for code, _, _ in told] == [0, 0], lines(told)
    assert told[1][1] == ""
    alone, shared = (json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8")) for name in ("alone", "shared"))
    assert shared.pop("command").startswith("torchrun --nproc_per_node 2 ")
    alone.pop("command")
    assert shared == alone or flags
    assert shared["adapted"]["loss"] == pytest.approx(alone["adapted"]["loss"], rel=1e-5)
    assert counts(tmp_path / "shared.json") == counts(tmp_path / "alone.json")


def test_texts_that_two_processes_share_come_out_as_from_one(job, tmp_path):
    """Line by line; a bad text keeps its place; the second process does not see the file."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    (here / "texts.txt").write_bytes(b"i am so happy\n\nit rains\n\xff\n" + b"".join(b"row %d\n" % n for n in range(150)))
    arguments = [job.adapter, "--precision", "fp32", "--skip_bad_rows", "--file"]
    assert call(predict, *arguments, here / "texts.txt", "--output", tmp_path / "alone.jsonl") == 0
    told = in_processes(
        rank_work.script, "predict", *arguments, "texts.txt", "--output", "shared.jsonl", places=[here, elsewhere]
    )
    assert [code for code, _, _ in told] == [0, 0], lines(told)
    alone, shared = (
        (tmp_path / "alone.jsonl").read_text(encoding="utf-8"),
        (here / "shared.jsonl").read_text(encoding="utf-8"),
    )
    assert shared == alone.replace(f"{here}/", "")
    assert len(shared.splitlines()) == 154
    assert list(elsewhere.iterdir()) == []
    assert "2 texts could not be classified" in told[0][2]
    assert told[1][1:] == ("", "")


def test_a_shared_base_classifies_as_a_whole_one(job):
    """predict.py --fsdp: the labels of the merged adapter, the scores to rounding."""
    arguments = [job.adapter, "--precision", "fp32", "i am so happy", "it rains", "not one of them is sad"]
    (whole, _), (shares, other) = (
        in_processes(rank_work.script, "predict", *arguments, *flags) for flags in ([], ["--fsdp"])
    )
    assert whole[0] == shares[0] == 0, lines([whole, shares])
    assert other[1] == ""
    for ours, theirs in zip(shares[1].splitlines(), whole[1].splitlines(), strict=True):
        assert json.loads(ours)["label"] == json.loads(theirs)["label"]
        assert json.loads(ours)["scores"] == pytest.approx(json.loads(theirs)["scores"], abs=1e-5)


def test_processes_started_with_different_flags_are_refused_with_both_values(job, tmp_path):
    """By all of them, before anything is read or written."""
    own = [["--learning_rate", 0.01, "--plain=True"], ["--learning_rate", 0.1]]
    told = in_processes(rank_work.script, "train", *run_arguments(job, tmp_path / "run"), own_arguments=own)
    found = (
        "--learning_rate is '0.1' in process 1, '0.01' in process 0; "
        "--plain is not given in process 1, 'True' in process 0; start all processes with the same flags and versions"
    )
    assert [code for code, _, _ in told] == [1, 1]
    assert [line.partition(": ")[2] for line in lines(told)] == [found, found]
    assert [line.partition(":")[0] for line in lines(told)] == ["error", "error in process 1"]
    assert not (tmp_path / "run").exists()


def test_processes_with_different_adapters_under_one_name_are_refused(job, tmp_path):
    """A machine that holds an older copy must not answer for its share of the rows."""
    places = [tmp_path / "here", tmp_path / "there"]
    for place in places:
        shutil.copytree(job.adapter, place / "adapter")
    assert call(train, *train_arguments(job.base, job.data, tmp_path / "other"), "--seed", 1) == 0
    shutil.rmtree(places[1] / "adapter")
    shutil.copytree(tmp_path / "other" / "adapter", places[1] / "adapter")
    told = in_processes(rank_work.script, "predict", "adapter", "a text", places=places)
    assert [code for code, _, _ in told] == [1, 1]
    assert "the adapter adapter: not the same in process 1 as in process 0" in lines(told)[0]


def test_a_folder_that_holds_a_run_ends_all_processes(job):
    """The main process says why; the other, that it has lost the main one."""
    told = in_processes(rank_work.script, "train", *run_arguments(job, job.run))
    assert [code for code, _, _ in told] == [1, 1]
    why, echo = lines(told)
    assert why.startswith("error: --output_dir")
    assert "holds files already" in why
    assert echo.startswith("error in process 1: process 1 of 2: lost another process of the job")


def test_a_signal_to_any_process_saves_and_stops_all_and_a_resume_ends_in_the_same_bits(job, tmp_path):
    """SIGTERM in step 3, with dropout; exit code 143 in both, since both go on or stop together."""
    arguments = [*train_arguments(job.base, job.data, "run"), "--save_steps", 2]
    here = [tmp_path / name for name in ("0", "1", "whole")]
    for place in here:
        place.mkdir()
    told = in_processes(rank_work.script, "train", *arguments, places=[here[2], tmp_path])
    assert [code for code, _, _ in told] == [0, 0], lines(told)
    adapters = [place / "run" / "adapter" / "adapter_model.safetensors" for place in here]
    for process in (0, 1):
        places, stop = [here[process], tmp_path], (process, 2, signal.SIGTERM)
        told = in_processes(rank_work.script, "train", *arguments, places=places, signalled=stop)
        assert [code for code, _, _ in told] == [143, 143]
        assert lines(told)[0] == "interrupted: SIGTERM, saved after step 3 of 8; go on with --resume run"
        told = in_processes(rank_work.script, "train", "--resume", "run", places=places)
        assert [code for code, _, _ in told] == [0, 0], lines(told)
        assert "goes on after step 3" in told[0][1]
        assert adapters[process].read_bytes() == adapters[2].read_bytes()


def test_a_script_for_one_process_refuses_to_be_started_in_several(monkeypatch, capsys, tmp_path):
    """Two comparisons at once would write to one folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert call(compare, "--output_dir", tmp_path / "run") == 1
    assert capsys.readouterr().err == "error: compare.py: started as 2 processes; expected one; run it without torchrun\n"


def test_fsdp_in_one_process_is_refused(job, tmp_path, capsys):
    """There would be nobody to share with."""
    assert call(train, *run_arguments(job, tmp_path / "run"), "--fsdp", "True") == 1
    assert "error: --fsdp: there is one process; expected several, started by torchrun" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
