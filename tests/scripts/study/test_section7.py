"""scripts/study/section7.py: the replay on a tiny model, its figures against dense computations, and going on."""

import json
from pathlib import Path

import pytest
import torch
from support.command_line import call
from support.report_pages import Outline
from support.trainings import train_in_process

from lora_scratch.adapter import adapter_layers
from lora_scratch.commands.study import section7
from lora_scratch.runs import open_adapter

SMALL = ["--budget", 4, "--ranks", 1, 2, "--layer", 1, "--limit_train", 16, "--limit_eval", 8, "--epochs", 1]
SMALL += ["--max_tokens", 32, "--learning_rate", 1e-2, "--precision", "fp32"]


@pytest.fixture(scope="module")
def replay(job, tmp_path_factory):
    """The folder of a finished replay, how often it trained, and how to call it again."""
    folder, patch = tmp_path_factory.mktemp("replay"), pytest.MonkeyPatch()

    def again(*more):
        arguments = ["--model", job.base, "--dataset", job.data, "--output_dir", folder, "--processes", 1, *SMALL, *more]
        return call(section7, *arguments)

    calls = train_in_process(patch)
    assert again() == 0
    yield folder, calls, again
    patch.undo()


def layer(folder: Path, run: str, kind: str) -> torch.nn.Module:
    model = open_adapter(folder / "runs" / run / "adapter").base.model
    return adapter_layers(model)[f"distilbert.transformer.layer.1.attention.{kind}_lin"]


def test_replay_writes_every_table_and_figure(replay):
    """One folder: figures, tables and page."""
    folder, calls, _ = replay
    found = json.loads((folder / "section7.json").read_text(encoding="utf-8"))
    assert len(calls) == 11
    assert len({row["parameters"] for row in found["budget"]}) == 1
    assert [(row["kinds"], row["rank"]) for row in found["ranks"]] == [("q", 1), ("q", 2), ("qv", 1), ("qv", 2)]
    report = json.loads((folder / "runs" / "k-4" / "seed-0" / "report.json").read_text(encoding="utf-8"))
    assert found["budget"][1]["accuracy"] == [report["adapted"]["accuracy"]]
    text = (folder / "section7.md").read_text(encoding="utf-8")
    assert f"| k at rank 4 | {report['parameters']['lora']:,} | {report['adapted']['accuracy']:.4f} |" in text
    figures = sorted(folder.glob("figure-*.svg"))
    assert len(figures) == 9
    assert all(f"({figure.name})" in text for figure in figures)
    assert len(Outline((folder / "report.html").read_text(encoding="utf-8")).all("svg")) == 9


def test_similarity_between_ranks_and_seeds_is_that_of_the_dense_matrices(replay):
    """Of A and of ΔW, in the layer that was asked for, by a dense SVD of the adapters' own tensors."""
    folder, _, _ = replay
    found = json.loads((folder / "section7.json").read_text(encoding="utf-8"))
    assert found["layer"] == 1
    for rows, first, second in (
        (found["between_ranks"], "qv-1/seed-0", "qv-2/seed-1"),
        (found["between_seeds"], "qv-2/seed-0", "qv-2/seed-1"),
    ):
        for row in rows:
            sides = []
            for run in (first, second):
                adapted = layer(folder, run, row["kind"])
                matrix = adapted.lora_A if row["of"] == "A" else adapted.lora_B @ adapted.lora_A
                sides.append(torch.linalg.svd(matrix.detach().double()).Vh[: adapted.rank].T)
            for i in range(sides[0].shape[1]):
                for j in range(sides[1].shape[1]):
                    shared = (sides[0][:, : i + 1].T @ sides[1][:, : j + 1]).square().sum().item()
                    assert row["grid"][i][j] == pytest.approx(shared / min(i + 1, j + 1), abs=1e-5)


def test_amplification_is_that_of_the_dense_matrices(replay):
    """‖ΔW‖ over ‖Uᵀ W V‖."""
    folder, _, _ = replay
    found = json.loads((folder / "section7.json").read_text(encoding="utf-8"))["amplification"]
    assert [(row["kind"], row["layer"], row["rank"]) for row in found] == [(k, n, 2) for k in "qv" for n in (0, 1)]
    adapted = layer(folder, "qv-2/seed-0", "v")
    left, _, right = torch.linalg.svd(adapted.delta_weight().detach().double())
    inside = (left[:, :2].T @ adapted.weight.detach().double() @ right[:2].T).norm().item()
    assert found[3]["factor"] == pytest.approx(adapted.delta_weight().norm().item() / inside, rel=1e-4)


def test_a_second_call_trains_nothing_again_and_what_is_missing_anew(replay, capsys):
    """A finished training stays; one without its report is gone on with."""
    folder, calls, again = replay
    before, text = len(calls), (folder / "section7.md").read_text(encoding="utf-8")
    (folder / "runs" / "q-1" / "seed-0" / "report.json").unlink()
    assert again() == 0
    assert calls[before:] == [folder / "runs" / "q-1" / "seed-0"]
    assert (folder / "section7.md").read_text(encoding="utf-8") == text
    assert again("--weight_decay", 0.1) == 1
    assert "was begun with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--seed", 3], 2, "--seed is set for each training: use --seeds"),
        (["--processes", 0], 2, "--processes: found 0"),
        (["--budget", 6], 1, "--budget: found 6; expected a multiple of 4"),
        (["--layer", 9], 1, "--layer: found 9; expected 0 to 1"),
    ],
)
def test_section7_refuses_before_it_trains(replay, capsys, more, code, message):
    """One line, and no training."""
    _, calls, again = replay
    before = len(calls)
    assert again(*more) == code
    assert message in capsys.readouterr().err
    assert len(calls) == before
