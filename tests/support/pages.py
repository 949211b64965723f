"""What README.md and docs/ hold: snippets to run, commands whose flags have to exist."""

import contextlib
import io
import re
import shlex
from functools import cache

from support.command_line import call
from support.typed_flags import COMMANDS, command


def blocks(page, language):
    """The code blocks of a page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def commands(page):
    """The command lines of a page, each on one line."""
    return [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]


def is_ours(line):
    """Whether the line starts one of the commands."""
    return re.search(r"(^|\s)(lora-scratch|-m lora_scratch|\S*scripts/\S+\.py) ", f"{line} ") is not None


def missing_flags(line):
    """The flags of a command that its `--help` does not know; a command that there is not is an error."""
    words = shlex.split(line, comments=True)
    start = next(n for n, word in enumerate(words) if re.fullmatch(r"lora[-_]scratch|\S*scripts/\S+\.py", word))
    program, own = words[start], words[start + 1 :]
    while program.startswith("lora") and own[0] == "--import":
        own = own[2:]
    name = own.pop(0) if program.startswith("lora") else next(n for n, m in COMMANDS.items() if program.endswith(_file(m)))
    job = own[:1] if name == "export" else []
    known = _help(name, *job) + (_help("train") if name in ("compare", "section7") else "")
    own = " ".join(own).split()  # a value may hold flags itself
    return [word for word in own if word.startswith("--") and word not in known]


def _file(module):
    return f"scripts/{module.replace('.', '/')}.py"


@cache
def _help(name, *job):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert call(command(name), *job, "--help") == 0
    return shown.getvalue()
