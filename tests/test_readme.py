"""README.md: its snippets run, its commands exist, and it stays short."""

import os
import re
from pathlib import Path

import pytest
from support.pages import blocks, commands, is_ours, missing_flags

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_has_at_most_200_lines():
    """Short enough to be read."""
    assert len(README.splitlines()) <= 200


def test_readme_snippets_run_in_order(tmp_path, monkeypatch):
    """One after the other, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    snippets = blocks(README, "python")
    assert snippets
    exec(compile("\n".join(snippets), "README.md", "exec"), {})  # noqa: S102


@pytest.mark.parametrize("line", [line for line in commands(README) if is_ours(line)])
def test_readme_commands_name_flags_that_exist(line):
    """Every flag of every command is in its `--help`."""
    assert missing_flags(line) == []


def test_ci_runs_the_two_commands_of_the_readme():
    """.ci/run reads them from here, so both markers have to stand above a block."""
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for name in ("command-one", "command-two"):
        assert re.search(rf"<!-- {name} -->\n```bash\n", README)
        assert name in ci
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
