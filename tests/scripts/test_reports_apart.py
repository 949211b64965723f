"""Every command with --json or --html refuses a report in the place of an input, before the work and in one line."""

import importlib
import shutil

import pytest
from support.command_line import call
from support.folders import save_base, save_rows

LINES = {
    "json over the rows": ("check_data", "--dataset DATA/train.txt --json DATA/train.txt"),
    "rows of a folder": ("check_data", "--dataset DATA --json DATA/train.txt"),
    "json over the record of the run": ("check_data", "--run RUN --json RUN/config.json"),
    "rows that the run records": ("check_data", "--run RUN --json RECORDED/train.txt"),
    "other rows": ("evaluate", "ADAPTER --dataset DATA/test.txt --json DATA/test.txt"),
    "html over the adapter": ("evaluate", "ADAPTER --html ADAPTER/README.md"),
    "base that the adapter records": ("evaluate", "ADAPTER --json BASE/config.json"),
    "rows that the adapter records": ("evaluate", "ADAPTER --json RECORDED/test.txt"),
    "one file for both": ("evaluate", "ADAPTER --json OUT/x --html OUT/sub/../x"),
    "inspect": ("inspect_adapter", "ADAPTER --json ADAPTER/adapter_config.json"),
    "report of the run": ("study.ablate", "ADAPTER --json RUN/report.json"),
    "ablate, one file for both": ("study.ablate", "ADAPTER --json OUT/x --html OUT/x"),
    "compress": ("compress", "ADAPTER --output OUT --json ADAPTER/provenance.json"),
    "compress, result": ("compress", "ADAPTER --output OUT --json OUT/adapter_config.json"),
    "combine": ("combine", "--add ADAPTER ADAPTER --output OUT --json ADAPTER/adapter_config.json"),
    "combine, result": ("combine", "--add ADAPTER ADAPTER --output OUT --json OUT/adapter_config.json"),
    "benchmark": ("benchmarks.benchmark", "--model OTHER --dataset DATA --json OTHER/config.json"),
    "gpu acceptance": ("benchmarks.gpu_acceptance", "--model OTHER --device cpu --json OTHER/config.json"),
}


@pytest.fixture
def places(job, tmp_path):
    """A copy of the run, rows and a base of its own; the run records the rows and the base of the job."""
    run = shutil.copytree(job.run, tmp_path / "run")
    data, other = save_rows(tmp_path / "data"), save_base(tmp_path / "other", labels=("negative", "positive"))
    return {
        **{"ADAPTER": run / "adapter", "RUN": run, "DATA": data, "OTHER": other},
        **{"BASE": job.base, "RECORDED": job.data, "OUT": tmp_path / "out"},
    }


def contents(places):
    """Every file of the places, by its path."""
    return {path: path.read_bytes() for place in places.values() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", LINES)
def test_report_in_the_place_of_an_input_is_one_line_and_writes_nothing(places, capsys, case):
    """The inputs have all their bytes after it."""
    name, line = LINES[case]
    for word, place in places.items():
        line = line.replace(word, str(place))
    before = contents(places)
    capsys.readouterr()
    assert call(importlib.import_module(f"lora_scratch.commands.{name}"), *line.split()) == 1
    said = capsys.readouterr()
    [error] = [line for line in said.err.splitlines() if "error: " in line]
    assert "is taken by" in error
    assert said.out == ""
    assert contents(places) == before
