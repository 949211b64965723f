"""One state of the page: which adapter, which text, and how much of the adapter acts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from torch import nn

from ..adapter import scaled, without
from ..runtime.json_types import Count, between
from .directions import Factors, keep_directions

WEAKEST, STRONGEST = -0.5, 2.0


@dataclass(frozen=True)
class State:
    """What the page shows.

    Args:
        adapter: its name on the page.
        strength: factor of every update, 1 as trained.
        rank: singular directions kept in every module; all if None.
        off: names of the modules whose update is switched off.
        module: the one that is shown step by step; the one moved most if None.
        row: the row of its input that is shown, usually a token; the one moved most if None.
    """

    adapter: str
    text: str
    pair: str | None = None
    strength: Annotated[float, between(WEAKEST, STRONGEST)] = 1.0
    rank: Annotated[int, between(1, 2**20)] | None = None
    off: tuple[str, ...] = ()
    module: str | None = None
    row: Count | None = None


@contextmanager
def in_state(model: nn.Module, state: State, factors: Factors) -> Iterator[None]:
    """Let the adapter act as the state says inside. Afterwards the model has its former bits.

    Raises:
        ConfigError: `off` names a module that is not adapted, or the rank can't be lowered.
    """
    with scaled(model, state.strength), without(model, state.off), keep_directions(model, state.rank, factors):
        yield
