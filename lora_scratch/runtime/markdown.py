"""Text of others in Markdown and YAML: shown as it is, on one line, without any effect."""

from __future__ import annotations

import re

import yaml

from ..errors import printable

# A tag or an address opens with a letter after <; an underscore inside a word is only a letter.
TAGS = re.compile(r"<(?=[A-Za-z/!?])")
ACTIVE = re.compile(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)")


def markdown_text(text: str) -> str:
    """Return a text as one line of Markdown. Not for the beginning of a line, where more has a meaning."""
    return TAGS.sub("&lt;", ACTIVE.sub(r"\\\g<0>", printable(text).replace("&", "&amp;")))


def markdown_code(text: str) -> str:
    """Return a text as code inside a line. Backticks in it need a longer fence, and a blank beside it."""
    line = printable(text)
    longest = max(map(len, re.findall("`+", line)), default=0)
    return f"`{line}`" if not longest else f"{'`' * (longest + 1)} {line} {'`' * (longest + 1)}"


def yaml_line(key: str, text: str) -> str:
    """Return `key: text` as one line of YAML, from which a reader gets the very text back."""
    line: str = yaml.safe_dump({key: text}, allow_unicode=True, width=10**9).rstrip("\n")
    if line.isprintable() and yaml.safe_load(line) == {key: text}:
        return line
    quoted: str = yaml.safe_dump(text, default_style='"', width=10**9).rstrip("\n")
    return f"{key}: {quoted}"
