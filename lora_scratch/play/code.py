"""A state of the page as Python that prints the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .state import State
from .steps import SHOWN

PRINTS = """\
for title in ("without the adapter", "adapter"):
    print(title, found.chosen[title], found.scores[title])
for token, moved in zip(found.rows, found.trace.moved().tolist()):
    print(f"{token:<16} {moved:.4f}")"""


def python_code(state: State, *, folder: str, opened: Mapping[str, Any], module: str, row: int) -> str:
    """Return the code. It needs nothing but the package and the adapter's folder.

    Args:
        opened: the keyword arguments that the folder was opened with.
        module, row: those that are shown, also where the state leaves them open.
    """
    pair = "" if state.pair is None else f"pair={state.pair!r}, "
    words = [repr(folder), *(f"{name}={value!r}" for name, value in opened.items() if value)]
    imports, contexts = _contexts(state)
    lines = [
        *imports,
        "from lora_scratch.runs import open_adapter",
        "from lora_scratch.study.explain import explain",
        "",
        f"saved = open_adapter({', '.join(words)})",
        "model = saved.base.model",
        f"text = {state.text!r}",
        *([f"with {', '.join(contexts)}:"] if contexts else []),
        f"{'    ' if contexts else ''}found = explain(saved, text, {pair}module={module!r})",
        PRINTS,
        "for symbol, value in found.trace.steps.items():",
        f'    print(f"{{symbol:<16}}", *(f"{{number:+.4f}}" for number in value[{row}, :{SHOWN}].tolist()))',
    ]
    return "\n".join(lines) + "\n"


def _contexts(state: State) -> tuple[list[str], list[str]]:
    """Return the imports and the contexts of what differs from the adapter as trained."""
    choices = [
        ("scaled", f"scaled(model, {state.strength!r})", state.strength != 1),
        ("without", f"without(model, {list(state.off)!r})", bool(state.off)),
    ]
    toggles = [(name, words) for name, words, needed in choices if needed]
    imports = [f"from lora_scratch.adapter import {', '.join(name for name, _ in toggles)}"] if toggles else []
    contexts = [words for _, words in toggles]
    if state.rank is not None:
        imports.append("from lora_scratch.play.directions import keep_directions")
        contexts.append(f"keep_directions(model, {state.rank})")
    return imports, contexts
