"""What is released: the wheel holds the whole package and runs outside a checkout; versions agree wherever they stand."""

import configparser
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
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


def test_wheel_holds_every_file_of_the_package_and_of_the_commands(wheel):
    """Data files too: py.typed and the page's template; scripts/ is `lora_scratch.commands`."""
    ours = {p.relative_to(ROOT) for p in (ROOT / "lora_scratch").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    commands = {Path("lora_scratch/commands") / p.relative_to(ROOT / "scripts") for p in (ROOT / "scripts").rglob("*.py")}
    assert ours | commands == {p.relative_to(wheel) for p in (wheel / "lora_scratch").rglob("*") if p.is_file()}
    assert {Path("lora_scratch/py.typed"), Path("lora_scratch/reporting/page.html")} <= ours


def test_wheel_holds_the_package_alone(wheel):
    """No tests or documentation among the installed packages."""
    own = f"lora_scratch-{SETTINGS['metadata']['version']}.dist-info"
    assert {path.name for path in wheel.iterdir()} == {"lora_scratch", own}
    assert "lora-scratch = lora_scratch.__main__:main" in (wheel / own / "entry_points.txt").read_text(encoding="utf-8")


def outside(*arguments, path, folder):
    """Run `python -m lora_scratch` in another folder, with this on the path and no package of the environment."""
    environment = {"PATH": os.defpath, "XDG_CACHE_HOME": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(path)}
    start = (
        "import sys, runpy; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]; "
        "sys.argv[0] = 'lora-scratch'; runpy.run_module('lora_scratch', run_name='__main__')"
    )
    command = [sys.executable, "-c", start, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("installed", ["from a wheel", "from a checkout that nobody installed"])
def test_a_command_runs_outside_the_checkout(wheel, tmp_path, installed):
    """Its own words and its own exit code; the commands of a checkout lie in scripts/."""
    place = wheel if installed == "from a wheel" else tmp_path / "checkout"
    if place != wheel:
        place.mkdir()
        for name in ("lora_scratch", "scripts"):
            (place / name).symlink_to(ROOT / name)
    done = outside("inspect", "nowhere", path=place, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    assert re.search(r"^error: nowhere.*", done.stderr, flags=re.MULTILINE)


def start(monkeypatch, *words, program="lora-scratch"):
    """Run the console command; return the exit code."""
    monkeypatch.setattr(sys, "argv", [program, *words])
    with pytest.raises(SystemExit) as stop:
        by_name.main()
    return stop.value.code or 0


def test_help_lists_every_command_once_with_one_line(monkeypatch, capsys):
    """In groups; the names are those of the files, but for `inspect`, which Python has a module of."""
    assert start(monkeypatch, "--help") == 0
    printed = capsys.readouterr().out
    for group, commands in by_name.COMMANDS.items():
        assert f"\n{group}:\n" in printed
        for name, (module, line) in commands.items():
            assert printed.count(f"\n  {name:<16}{line}\n") == 1
            assert len(line) < 80
            assert (ROOT / "scripts" / f"{module.replace('.', '/')}.py").is_file()
    named = {module for commands in by_name.COMMANDS.values() for module, _ in commands.values()}
    files = [*(ROOT / "scripts").glob("*.py"), *(ROOT / "scripts" / "study").glob("*.py")]
    assert {path.stem for path in files} - {"__init__"} <= {module.rpartition(".")[2] for module in named}


@pytest.mark.parametrize(
    ("program", "name"), [("bin/lora-scratch", "lora-scratch"), ("x/__main__.py", "python -m lora_scratch")]
)
def test_a_command_gets_its_own_words_and_is_called_as_it_was(program, name, monkeypatch, capsys):
    """In the usage line and in records."""
    assert start(monkeypatch, "combine", "--help", program=program) == 0
    assert capsys.readouterr().out.startswith(f"usage: {name} combine [-h]")
    assert sys.argv == [f"{name} combine", "--help"]


def test_a_module_of_ones_own_is_imported_before_the_command(tmp_path, monkeypatch, capsys):
    """One that registers a layer, from the folder one is in; one that is not there is wrong usage."""
    (tmp_path / "brought_along.py").write_text("import sys\nsys.brought_along = True\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(sys, "brought_along", False, raising=False)
    assert start(monkeypatch, "--import", "brought_along", "combine", "--help") == 0
    assert sys.brought_along
    assert sys.argv == ["lora-scratch --import brought_along combine", "--help"]
    for name in ("not_there", "./brought_along.py", "a." * 3000 + "b"):
        assert start(monkeypatch, "--import", name, "combine", "--help") == 2
        assert f"--import {name}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["trian"], "no command 'trian'; nearest: train"),
        (["inspect_adapter"], "nearest: inspect"),
        (["--rank", "8"], "unrecognized arguments: --rank|no command '8'"),
    ],
)
def test_unknown_command_is_wrong_usage_that_names_the_nearest(words, message, monkeypatch, capsys):
    """Exit code 2, as everywhere."""
    assert start(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert "usage: lora-scratch" in error
    assert re.search(message, error)


def test_commands_that_share_work_say_so():
    """`torchrun -m lora_scratch` and `torchrun scripts/...` start the same three in several processes."""
    several = set()
    for commands in by_name.COMMANDS.values():
        for name, (module, _) in commands.items():
            loaded = importlib.import_module(f"{by_name.PACKAGE}.{module}")
            tail = Path(loaded.__file__).read_text(encoding="utf-8").splitlines()[-1].strip()
            shared = getattr(loaded, "IN_PROCESSES", False)
            named = {flag: flag.upper() for flag in ("in_processes", "needs_reader", "only_classifies")}
            options = [f"{flag}={constant}" for flag, constant in named.items() if getattr(loaded, constant, False)]
            assert tail == f"run_command({', '.join(['main', *options])})", name
            several |= {name} if shared else set()
    assert several == {"train", "evaluate", "predict"}


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
    asked, oldest = bounds("benchmark", "tensorboard", "onnx"), pins("constraints-oldest.txt")
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


def test_ctrl_c_while_a_command_is_imported_is_one_word(monkeypatch, capsys):
    """Importing takes seconds; the command itself catches the signal from then on."""

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["lora-scratch", "predict"])
    monkeypatch.setattr(by_name.importlib, "import_module", interrupted)
    with pytest.raises(SystemExit) as stop:
        by_name.main()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
