"""Count the operators that torch dispatches: what a GPU would have to launch, seen on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# Operators that only look at memory in another way, or only allocate it: a GPU launches nothing for them.
NO_KERNEL = {
    "_reshape_alias",
    "_unsafe_view",
    "alias",
    "detach",
    "empty",
    "empty_like",
    "expand",
    "permute",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "t",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
}


@dataclass
class Operators:
    """What was dispatched: each operator's name without its overload (`add`, `_to_copy`) and its keyword arguments."""

    calls: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """In the order of the calls."""
        return [name for name, _ in self.calls]

    @property
    def kernels(self) -> list[str]:
        """The names of those that a GPU launches something for."""
        return [name for name in self.names if name not in NO_KERNEL]


@contextmanager
def dispatched() -> Iterator[Operators]:
    """Inside, every operator is noted, also those of a backward pass."""
    operators = Operators()
    with _Note(operators):
        yield operators


class _Note(TorchDispatchMode):
    def __init__(self, operators: Operators) -> None:
        super().__init__()
        self.operators = operators

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Note the call and make it."""
        self.operators.calls.append((function.overloadpacket.__name__, kwargs or {}))
        return function(*args, **(kwargs or {}))
