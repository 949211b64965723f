"""What is released: the wheel holds the whole package and runs outside a checkout; versions agree wherever they stand."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import lora_scratch.__main__ as by_name

ROOT = Path(__file__).parent.parent
SETTINGS = configparser.ConfigParser()
SETTINGS.read(ROOT / "setup.cfg", encoding="utf-8")
BUILT = ("lora_scratch", "scripts", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, unpacked: nothing is written into the checkout, nothing is fetched."""
    source = tmp_path_factory.mktemp("source")
    for name in BUILT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    build = "import setuptools.build_meta as b; b.build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (built,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(source / "installed")
    return source / "installed"


def test_wheel_holds_every_file_of_the_package(wheel):
    """Data files too: py.typed and the page's template."""
    ours = {p.relative_to(ROOT) for p in (ROOT / "lora_scratch").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert ours == {p.relative_to(wheel) for p in (wheel / "lora_scratch").rglob("*") if p.is_file()}
    assert {Path("lora_scratch/py.typed"), Path("lora_scratch/reporting/page.html")} <= ours


def test_wheel_holds_the_package_and_the_scripts_alone(wheel):
    """No tests or documentation among the installed packages."""
    version = SETTINGS["metadata"]["version"]
    own = f"lora_scratch-{version}"
    assert {path.name for path in wheel.iterdir()} == {"lora_scratch", f"{own}.data", f"{own}.dist-info"}
    scripts = wheel / f"{own}.data" / "data" / "share" / "lora-scratch" / "scripts"
    assert {path.name for path in scripts.iterdir()} == {path.name for path in (ROOT / "scripts").glob("*.py")}


def test_wheel_runs_the_scripts_outside_the_checkout(wheel, tmp_path):
    """`python -m lora_scratch NAME` is the wheel's own script, with its own words and its own exit code."""
    environment = {"PATH": os.defpath, "PYTHONPATH": str(wheel), "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lora_scratch", "inspect_adapter", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert re.search(r"^error: nowhere.*", done.stderr, flags=re.MULTILINE)


def test_scripts_of_a_wheel_are_found_by_its_record(wheel, monkeypatch):
    """Wherever the installer put them."""
    monkeypatch.syspath_prepend(str(wheel))
    found = by_name._installed()
    assert {path.name for path in found} == {path.name for path in (ROOT / "scripts").glob("*.py")}
    assert all(path.is_relative_to(wheel) and path.is_file() for path in found)


@pytest.mark.parametrize("answer", [None, [], PackageNotFoundError("lora-scratch")])
def test_scripts_of_a_checkout_are_those_beside_the_package(answer, monkeypatch, capsys):
    """Installed in place or not at all; the words after the name go to the script."""

    def files(name):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(by_name, "files", files)
    monkeypatch.setattr(sys, "argv", ["lora_scratch", "memory", "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        by_name.main()
    assert sys.argv == [str(ROOT / "scripts" / "memory.py"), "--help"]
    assert "memory.py" in capsys.readouterr().out


def test_a_module_of_ones_own_is_imported_before_the_script(tmp_path, monkeypatch, capsys):
    """One that registers a layer, from the folder one is in; one that is not there is wrong usage."""
    (tmp_path / "brought_along.py").write_text("import sys\nsys.brought_along = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "brought_along", False, raising=False)
    monkeypatch.setattr(sys, "argv", ["lora_scratch", "--import", "brought_along", "memory", "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        by_name.main()
    assert sys.brought_along
    assert sys.argv[1:] == ["--help"]
    for name in ("not_there", "./brought_along.py"):
        monkeypatch.setattr(sys, "argv", ["lora_scratch", "--import", name, "memory", "--help"])
        with pytest.raises(SystemExit, match=r"^2$"):
            by_name.main()
        assert f"--import {name}: " in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["trian"], ["--rank", "8"]])
def test_unknown_script_is_wrong_usage_that_names_those_that_exist(words, monkeypatch, capsys):
    """Exit code 2, as everywhere."""
    monkeypatch.setattr(sys, "argv", ["lora_scratch", *words])
    with pytest.raises(SystemExit, match=r"^2$"):
        by_name.main()
    assert "usage: python -m lora_scratch" in capsys.readouterr().err


def test_changelog_tells_of_the_version_that_is_built():
    """The newest entry with a number is setup.cfg's version."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert (
        re.findall(r"^## \[(\d.*?)\] - \d{4}-\d\d-\d\d$", changelog, flags=re.MULTILINE)[0]
        == SETTINGS["metadata"]["version"]
    )


def test_every_library_that_is_asked_for_has_its_tested_version():
    """constraints.txt pins what setup.cfg names, extras too, and to nothing older than setup.cfg allows."""
    wanted = [SETTINGS["options"]["install_requires"], *SETTINGS["options.extras_require"].values()]
    bounds = dict(re.split(r"[>=]=", re.sub(r"\[.*\]", "", line)) for line in "\n".join(wanted).split())
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert sorted(set(bounds) - set(pins)) == []

    def numbers(text):
        return [int(part) for part in text.split(".")]

    assert [name for name, bound in bounds.items() if numbers(pins[name]) < numbers(bound)] == []
