"""docs/*.ipynb: every cell runs, in this process; what they store is small. The torture starts a kernel for each."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

from lora_scratch.runs.presets import PRESETS

DOCS = Path(__file__).parent.parent.parent / "docs"
TUTORIAL, STUDY = NAMES = ("tutorial.ipynb", "study.ipynb")


def read(name):
    return pytest.importorskip("nbformat").read(DOCS / name, as_version=4)


def run(name, folder, monkeypatch):
    """Run the cells one after the other, as one script in `folder`; return what they printed."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.chdir(folder)
    before, printed = torch.get_default_dtype(), io.StringIO()
    try:
        with pyplot.rc_context(), contextlib.redirect_stdout(printed):
            exec(compile(source(name), name, "exec"), {"__name__": name})  # noqa: S102
    finally:
        pyplot.close("all")
        torch.set_default_dtype(before)
    return printed.getvalue()


def source(name):
    return "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "code")


@pytest.mark.filterwarnings("ignore:FigureCanvas.* is non-interactive")
def test_tutorial_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """The story on the demo, in fewer epochs than there."""
    monkeypatch.setitem(PRESETS, "demo", {**PRESETS["demo"], "epochs": 1})
    assert "The adapted model is better than the frozen baseline" in run(TUTORIAL, tmp_path, monkeypatch)


@pytest.mark.filterwarnings("ignore:FigureCanvas.* is non-interactive")
def test_study_notebook_runs_and_every_part_of_it_checks_its_claims(tmp_path, monkeypatch):
    """Each of the seven parts has an assert and something to try, and all asserts hold."""
    run(STUDY, tmp_path, monkeypatch)
    parts = re.split(r"^## (?=\d\. )", "\n".join(cell.source for cell in read(STUDY).cells), flags=re.MULTILINE)[1:]
    assert len(parts) == 7
    assert all("\nassert " in part or "    assert " in part for part in parts)
    assert all("**Try:**" in part for part in parts)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_small_and_stored_with_what_it_showed(name):
    """Pictures of a small size."""
    assert (DOCS / name).stat().st_size < 150_000
    assert any(cell.get("outputs") for cell in read(name).cells)


@pytest.mark.torture
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_in_a_kernel(name, tmp_path):
    """As it is stored, cell by cell."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = read(name)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    if name == TUTORIAL:
        assert any("The adapted model is better than the frozen baseline" in text for text in shown)
        assert all(cell.outputs or "import" in cell.source for cell in notebook.cells if cell.cell_type == "code")
