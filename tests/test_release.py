"""What is released: the wheel holds the whole package and runs outside a checkout; versions agree wherever they stand."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
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
    for name in ("not_there", "./brought_along.py", "a." * 3000 + "b"):
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


def numbers(version):
    """[2, 11] for "2.11" and for "2.11.0": what follows the last number other than 0 says nothing."""
    parts = [int(part) for part in version.split(".")]
    while parts and parts[-1] == 0:
        parts.pop()
    return parts


def bounds(*extras):
    """What setup.cfg asks for, as {name: oldest version}, and with these extras."""
    wanted = [SETTINGS["options"]["install_requires"], *(SETTINGS["options.extras_require"][name] for name in extras)]
    return dict(re.split(r"[>=]=", re.sub(r"\[.*\]", "", line)) for line in "\n".join(wanted).split())


def pins(name):
    """The versions in a file of constraints, as {name: version}."""
    return dict(line.split("==") for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if "==" in line)


def test_every_library_that_is_asked_for_has_its_tested_version():
    """constraints.txt pins what setup.cfg names, extras too, and to nothing older than setup.cfg allows."""
    asked, tested = bounds(*SETTINGS["options.extras_require"]), pins("constraints.txt")
    assert sorted(set(asked) - set(tested)) == []
    assert [name for name, bound in asked.items() if numbers(tested[name]) < numbers(bound)] == []


def test_lower_bounds_are_the_versions_that_the_oldest_run_tests():
    """constraints-oldest.txt pins all that a user installs to what setup.cfg allows: no bound that nothing was run on."""
    asked, oldest = bounds("plots", "report", "benchmark", "tensorboard", "onnx"), pins("constraints-oldest.txt")
    assert {name: numbers(bound) for name, bound in asked.items()} == {
        name: numbers(oldest[name]) for name in asked if name in oldest
    }


def test_working_gpu_image_is_not_upgraded():
    """Current images carry torch 2.11 and transformers 5.17: a higher bound would have pip replace their build of torch."""
    asked = bounds()
    assert numbers(asked["torch"]) <= [2, 11]
    assert numbers(asked["transformers"]) <= [5, 17]


def test_oldest_python_is_the_same_wherever_it_stands():
    """For pip, ruff, mypy and whoever reads the classifiers or docs/versions.md."""
    oldest = SETTINGS["options"]["python_requires"].removeprefix(">=")
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    listed = re.findall(r"Python :: (3\.\d+)$", SETTINGS["metadata"]["classifiers"], flags=re.MULTILINE)
    assert tools["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    assert tools["mypy"]["python_version"] == oldest
    assert min(listed, key=numbers) == oldest
    table = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    assert [number for number in listed if f"| {number}." not in table] == []


@pytest.fixture
def environment(tmp_path):
    """A stand-in for a virtual environment: its Python writes down what it is asked for, and has pip fail if told to."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ "$2" = pip ] && [ -n "$PIP_FAILS" ] && exit 1\nexit 0\n')
    python.chmod(0o755)
    return tmp_path


def run_oldest(environment, *names, **variables):
    """`.ci/oldest NAMES...` with the stand-in, and what its Python was asked for, line by line."""
    given = {"PATH": os.environ["PATH"], "VIRTUAL_ENV": str(environment / "venv"), **variables}
    command = ["bash", str(ROOT / ".ci" / "oldest"), *names]
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60)
    asked = environment / "asked"
    return done, asked.read_text(encoding="utf-8").splitlines() if asked.exists() else []


def test_oldest_run_changes_the_named_packages_in_a_copy(environment):
    """Nothing else is installed, the sample is run, and the environment is as it was."""
    done, (install, tests) = run_oldest(environment, "transformers", SAMPLE="tests/model")
    assert done.returncode == 0, done.stderr
    assert install == f"-m pip install --quiet transformers=={pins('constraints-oldest.txt')['transformers']}"
    assert tests.startswith("-m pytest ")
    assert tests.endswith(" tests/model")
    assert {path.name for path in environment.iterdir()} == {"venv", "asked"}


def test_oldest_run_without_names_takes_every_pin(environment):
    """Before a release."""
    _, (install, _) = run_oldest(environment)
    wanted = [f"{name}=={version}" for name, version in pins("constraints-oldest.txt").items()]
    assert install.split()[-len(wanted) :] == wanted


def test_usual_sample_of_the_oldest_run_is_there(environment):
    """A test file that was renamed would be missed in silence otherwise."""
    _, (_, tests) = run_oldest(environment, "transformers")
    sample = [word for word in tests.split() if word.startswith("tests/")]
    assert len(sample) > 3
    assert [name for name in sample if not (ROOT / name).exists()] == []


def test_oldest_run_says_in_one_line_that_it_needs_the_registry(environment):
    """No test is run on the wrong versions."""
    done, asked = run_oldest(environment, "transformers", PIP_FAILS="1")
    assert done.returncode == 1
    assert len(asked) == 1
    assert re.fullmatch(r"error: can't install transformers==\S+: .*package registry.*\n", done.stderr)


def test_oldest_run_refuses_a_package_without_a_pin(environment):
    """By name."""
    done, asked = run_oldest(environment, "transformer")
    assert done.returncode == 1
    assert not asked
    assert done.stderr == "error: constraints-oldest.txt pins no transformer\n"
