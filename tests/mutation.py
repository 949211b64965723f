"""The tests tested: every line of the mathematics is broken in turn, and some test has to notice.

    python tests/mutation.py run --max-children 1     the whole run; `results`, `show NAME` and `browse` look at it
    python tests/mutation.py run "lora_scratch.layers.lora*" --max-children 1

This is mutmut's own command line; what it breaks and which tests it runs stand in setup.cfg, [mutmut]. One thing is
added. mutmut leaves decorated functions alone, since a decorator may register what it decorates. Here `merge` and its
like stand under `torch.no_grad()`, so they are broken too: the decorator goes to the switch between a function's mutants
instead of to each of them. mutation.md has the result.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from typing import Any

import libcst as cst
from mutmut.__main__ import cli
from mutmut.mutation import file_mutation
from mutmut.runners.harness import PytestRunner
from mutmut.state import state
from mutmut.workers.isolation import ForkServerRunner

PLAIN = ("no_grad", "property", "contextmanager")  # decorators that only wrap what they are given

arrange = file_mutation.function_trampoline_arrangement
skips = file_mutation.MutationVisitor._skip_node_and_children
warm_up = PytestRunner.warm_up
submit = ForkServerRunner.submit


def wraps_only(function: cst.FunctionDef) -> bool:
    """Whether every decorator of this function is one of `PLAIN`."""
    named = [cst.Module([]).code_for_node(decorator.decorator) for decorator in function.decorators]
    return all(name.removeprefix("torch.").removesuffix("()") in PLAIN for name in named)


def skips_unless_plain(visitor: file_mutation.MutationVisitor, node: cst.CSTNode) -> bool:
    """mutmut's own rule, for a function with decorators of `PLAIN` as if it had none."""
    plain = isinstance(node, cst.FunctionDef) and wraps_only(node)
    return skips(visitor, node.with_changes(decorators=[]) if plain else node)


def arrange_undecorated(
    function: cst.FunctionDef, mutants: Iterable[file_mutation.Mutation], class_name: str | None
) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any], Sequence[str]]:
    """mutmut's own arrangement, with decorators of `PLAIN` on the switch alone."""
    if not wraps_only(function):
        return arrange(function, mutants, class_name)
    empty, nodes, assignments, names = arrange(function.with_changes(decorators=[]), mutants, class_name)
    switch = nodes[0].with_changes(decorators=[*function.decorators, *nodes[0].decorators])
    return empty, [switch, *nodes[1:]], assignments, names


def warm_up_and_freeze(runner: PytestRunner) -> None:
    """What is imported now is shared by all mutants' processes, as long as none walks through it to collect garbage."""
    warm_up(runner)
    gc.freeze()


def submit_fastest_first(runner: ForkServerRunner, mutant: str, tests: list[str], *limits: Any) -> None:
    """The first test that fails ends a mutant, so the cheap ones come first."""
    submit(runner, mutant, sorted(tests, key=state().duration_by_test.__getitem__), *limits)


if __name__ == "__main__":
    file_mutation.MutationVisitor._skip_node_and_children = skips_unless_plain  # type: ignore[method-assign]
    file_mutation.function_trampoline_arrangement = arrange_undecorated  # type: ignore[assignment]
    PytestRunner.warm_up = warm_up_and_freeze  # type: ignore[method-assign]
    ForkServerRunner.submit = submit_fastest_first  # type: ignore[method-assign]
    cli()
