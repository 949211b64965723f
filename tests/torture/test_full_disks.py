"""Every command that writes, on disks that are full and with streams that take nothing: one line, and nothing half written.

pytest -m torture tests/torture/test_full_disks.py
"""

import contextlib
import io
import resource

import pytest
from support.command_line import call, train_arguments
from support.disks import on_a_disk
from support.folders import save_base, save_rows

from lora_scratch.commands import (
    check_data,
    combine,
    compress,
    evaluate,
    export,
    inspect_adapter,
    predict,
    train,
)
from lora_scratch.commands.study import ablate
from lora_scratch.deploy import reload, run_exported
from lora_scratch.deploy.formats import FORMATS
from lora_scratch.runtime import extras

pytestmark = [pytest.mark.torture, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]
ROOMS = ["4k", "16k", "60k", "120k"]  # a small table is written into the larger ones
LIMITS = [1, 8192, 60000]  # bytes of a file; so is a full disk said by some quotas


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, its model and data, and a table of many rows."""
    place = tmp_path_factory.mktemp("made")
    base, data = save_base(place / "base", labels=("negative", "positive")), save_rows(place / "data")
    assert call(train, *train_arguments(base, data, place / "run")) == 0
    (place / "rows.csv").write_text("text,n\n" + "i am so happy today,1\n" * 3000)
    (place / "rows.txt").write_text("i am so happy today\n" * 3000)
    return place


def commands(made):
    """The words of every command that writes, by name; {} is the disk."""
    adapter, recipe = made / "run" / "adapter", train_arguments(made / "base", made / "data", "{}/run")
    found = {
        "export split": (export, "split", adapter, "--output", "{}/x"),
        "predict json": (predict, adapter, "--file", made / "rows.txt", "--output", "{}/x.jsonl"),
        "predict csv": (predict, adapter, "--file", made / "rows.csv", "--output", "{}/x.csv"),
        "predict parquet": (predict, adapter, "--file", made / "rows.csv", "--output", "{}/x.parquet"),
        "evaluate": (evaluate, adapter, "--json", "{}/x.json", "--html", "{}/x.html"),
        "inspect": (inspect_adapter, adapter, "--json", "{}/x.json", "--html", "{}/x.html", "--figures", "{}/new/x"),
        "check_data": (check_data, "--dataset", made / "data", "--json", "{}/x.json"),
        "combine": (combine, "--average", adapter, adapter, "--output", "{}/x"),
        "compress": (compress, adapter, "--output", "{}/x", "--json", "{}/x.json"),
        "ablate": (ablate, adapter, "--json", "{}/x.json", "--html", "{}/x.html"),
        "train": (train, *recipe),
        "train whole": (train, *recipe, "--trainable", "all"),
        "train head": (train, *recipe, "--trainable", "head"),
    }
    merges = {f"export {form}": (export, "merge", adapter, "--output", "{}/x", "--format", form) for form in FORMATS}
    return {**found, **merges}


NAMES = ["split", "json", "csv", "parquet", "evaluate", "inspect", "check_data", "combine", "compress", "ablate"]
NAMES += ["train", "whole", "head", "transformers", "program"] + ["onnx"] * (not extras.missing_packages("onnx"))


def run(disk, made, name, limit=None):
    """Exit code, errors and files of a command that writes to `disk`, in a process that ends with the test."""
    script, *words = next(words for full, words in commands(made).items() if full.split()[-1] == name)
    reload.in_new_process = run_exported.answer
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        code = call(script, *(str(word).replace("{}", str(disk)) for word in words))
    left = sorted(str(path.relative_to(disk)) for path in disk.rglob("*"))
    return code, [line for line in said.getvalue().splitlines() if line.startswith("error")], left


def check(code, lines, left):
    """Done, or one line; in neither case is anything half."""
    assert not [name for name in left if ".lora-scratch-" in name]
    if code == 0:
        assert lines == []
        return
    assert (code, len(lines)) == (1, 1), lines
    assert "could not be written (" in lines[0]
    assert lines[0].endswith("free some space or choose another folder")
    assert not [
        name for name in left if not name.startswith(("run", "x.json", "x.html"))
    ]  # a run can be resumed; a table is whole


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", ROOMS)
def test_a_full_disk_is_one_line(made, tmp_path, name, size):
    """4 KiB are too few but for two that write little."""
    code, lines, left = on_a_disk(tmp_path / "disk", run, made, name, size=size)
    assert code == 1 or name in ("parquet", "check_data") or size != "4k"
    check(code, lines, left)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_of_file_sizes_is_one_line(made, tmp_path, name, limit):
    """Like a full disk, but small files before it are written."""
    code, lines, left = on_a_disk(tmp_path / "disk", run, made, name, limit, size="64m")
    assert code == 1 or limit > 1
    check(code, lines, left)
