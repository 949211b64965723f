"""Text of others in Markdown and YAML: shown as it is, on one line, without any effect."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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


class _OneLine(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types
    """Writes a text with line breaks or control characters in double quotes, on one line."""


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_OneLine.add_representer(str, _text_node)


def yaml_block(values: Mapping[str, Any]) -> str:
    """Return a mapping as lines of YAML, all printable, from which a reader gets the very values back."""
    lines: str = yaml.dump(values, Dumper=_OneLine, allow_unicode=True, width=10**9, sort_keys=False)
    if all(line.isprintable() for line in lines.split("\n")):
        return lines
    escaped: str = yaml.dump(values, Dumper=_OneLine, width=10**9, sort_keys=False)
    return escaped
