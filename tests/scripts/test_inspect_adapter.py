"""scripts/inspect_adapter.py: the table, the file, the pictures, and --verify as an exit code."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.command_line import call
from support.folders import save_base

from lora_scratch.commands import inspect_adapter


def test_inspect_prints_every_module_and_writes_the_same(job, tmp_path, capsys):
    """Six modules of rank 4; shares add up to one; pictures are there."""
    place = tmp_path / "anatomy.json"
    assert (
        call(
            inspect_adapter,
            job.adapter,
            "--json",
            place,
            "--html",
            tmp_path / "anatomy.html",
            "--figures",
            tmp_path / "pictures",
        )
        == 0
    )
    lines, found = capsys.readouterr().out.splitlines(), json.loads(place.read_text(encoding="utf-8"))
    assert [row["rank"] for row in found["modules"]] == [4] * 6
    for row in found["modules"]:
        assert any(line.startswith(row["name"]) and f"{row['relative_norm']:.4f}" in line for line in lines)
        assert row["singular_values"] == sorted(row["singular_values"], reverse=True)
    assert sum(found["shares"]["depth"].values()) == pytest.approx(1)
    page = (tmp_path / "anatomy.html").read_text(encoding="utf-8").replace("<wbr>", "")
    assert all(row["name"] in page for row in found["modules"])
    assert page.count('<svg role="img"') == 2
    for name in ("spectrum.png", "norms.png"):
        assert (tmp_path / "pictures" / name).read_bytes().startswith(b"\x89PNG")


def test_verify_passes_what_the_job_saved(job, capsys):
    """Files alone, and with the base."""
    assert call(inspect_adapter, job.adapter, "--verify") == 0
    assert call(inspect_adapter, job.adapter, "--verify", "--model", job.base) == 0
    assert "nothing wrong with the files, nor with its fit to" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--json", "--html", "--figures"])
def test_verify_refuses_a_report_that_it_would_not_write(job, tmp_path, capsys, flag):
    """Wrong usage, in one line."""
    assert call(inspect_adapter, job.adapter, "--verify", flag, tmp_path / "x") == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: {flag} does not go with --verify")
    assert not (tmp_path / "x").exists()


def test_verify_fails_with_another_base(job, tmp_path, capsys):
    """The files are whole; the base is not the one."""
    other = save_base(tmp_path / "other", labels=("negative", "positive"), seed=1)
    assert call(inspect_adapter, job.adapter, "--verify", "--model", other) == 1
    captured = capsys.readouterr()
    assert "wrong: the base model is not the one the adapter was trained on" in captured.out
    assert "error: " in captured.err


def test_verify_names_everything_wrong_with_a_damaged_folder(job, tmp_path, capsys):
    """A bit flipped and a config cut short: two lines, and with the base no line twice."""
    folder = shutil.copytree(job.adapter, tmp_path / "adapter")
    weights = folder / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (folder / "adapter_config.json").write_text("{")
    assert call(inspect_adapter, folder, "--verify", "--model", job.base) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrong: ")]
    assert len(lines) == 2
    assert "SHA-256" in lines[0]
    assert "adapter_config.json: not valid JSON" in lines[1]


def cut(weights):
    weights.write_bytes(weights.read_bytes()[:-9])


def drop_and_break(weights):
    tensors = load_file(weights)
    del tensors["base_model.model.classifier.bias"]
    tensors["base_model.model.classifier.weight"][0, 0] = torch.nan
    save_file(tensors, weights)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (cut, ["not a whole safetensors file"]),
        (
            drop_and_break,
            ["holds NaN or inf", "its SHA-256 is not the one", "classifier.bias is missing", "bias is random in the model"],
        ),
    ],
)
def test_verify_reports_a_damaged_file_and_another_base_at_once(job, tmp_path, capsys, damage, found):
    """One report of all that is wrong: what stops a load first does not hide the rest."""
    folder = shutil.copytree(job.adapter, tmp_path / "adapter")
    damage(folder / "adapter_model.safetensors")
    other = save_base(tmp_path / "other", labels=("negative", "positive"), seed=1)
    assert call(inspect_adapter, folder, "--verify", "--model", other) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrong: ")]
    expected = [*found, "the base model is not the one the adapter was trained on"]
    assert len(lines) == len(expected), lines
    for part, line in zip(expected, lines, strict=True):
        assert part in line
