"""README.md: its snippets run, its commands exist, and it stays short."""

import os
import re
import shlex
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SCRIPTS = Path(__file__).parent.parent / "scripts"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands():
    return [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]


def test_readme_has_at_most_200_lines():
    """Short enough to be read."""
    assert len(README.splitlines()) <= 200


def test_readme_snippets_run_in_order(tmp_path, monkeypatch):
    """Five snippets, one after the other, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    snippets = blocks("python")
    assert len(snippets) == 5
    exec(compile("\n".join(snippets), "README.md", "exec"), {})  # noqa: S102


@pytest.mark.parametrize("line", [line for line in commands() if "scripts/" in line])
def test_readme_commands_name_flags_that_exist(line, capsys):
    """Every flag of every command is in that script's `--help`."""
    words = shlex.split(line, comments=True)
    script = next(word for word in words if word.startswith("scripts/"))
    module = __import__(Path(script).stem)
    from command_line import call

    assert call(module, "--help") == 0
    shown = capsys.readouterr().out
    for flag in (word for word in words if word.startswith("--")):
        assert flag in shown, flag


def test_ci_runs_the_two_commands_of_the_readme():
    """.ci/run reads them from here, so both markers have to stand above a block."""
    ci = (Path(__file__).parent.parent / ".ci" / "run").read_text()
    for name in ("command-one", "command-two"):
        assert re.search(rf"<!-- {name} -->\n```bash\n", README)
        assert name in ci
    assert os.access(Path(__file__).parent.parent / ".ci" / "run", os.X_OK)
