"""What README.md and docs/ hold: snippets to run, commands whose flags have to exist."""

import contextlib
import io
import re
import shlex
from functools import cache
from pathlib import Path

from support.command_line import call


def blocks(page, language):
    """The code blocks of a page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def commands(page):
    """The command lines of a page, each on one line."""
    return [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]


def missing_flags(line):
    """The flags of a command that the script's `--help` does not know."""
    words = shlex.split(line, comments=True)
    script = next(word for word in words if word.startswith("scripts/"))
    own = " ".join(words[words.index(script) :]).split()  # those before it are torchrun's; a value may hold flags itself
    known = _help(Path(script).stem)
    if "goes to train.py" in known:  # compare.py hands them on
        known += _help("train")
    return [word for word in own if word.startswith("--") and word not in known]


@cache
def _help(script):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert call(__import__(script), "--help") == 0
    return shown.getvalue()
