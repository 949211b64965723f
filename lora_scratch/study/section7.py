"""Section 7 of the paper on another model: which trainings it takes, and the figures that are read from their adapters.

Hu et al. 2021, LoRA, arXiv:2106.09685: 7.1 which matrices to adapt under a budget of parameters; 7.2 which rank, and how
much the subspaces of two ranks and of two seeds have in common; 7.3 how ΔW relates to W. The paper compares the A, by their
right singular directions. So do we, and the ΔW as well: A keeps much of the random matrix that it starts as.

Where the seed is the same, A of rank 64 starts with the rows of A of rank 8: two ranks are compared between two seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..adapter import adapter_layers
from ..adapter.targets import layer_index
from ..errors import ConfigError, ModelError
from ..evaluation import Report
from ..layers import AdapterLayer
from ..model.families import FAMILIES
from ..runs.resume import REPORT
from ..runs.trained_adapter import open_adapter
from ..runtime.seeds import named_generator
from .subspace import (
    amplification,
    directions_of_A,
    directions_of_update,
    expected_similarity,
    random_directions,
    similarity,
)

KINDS = "qkvo"  # the projections of attention, in the order of the paper
COMPARED = "qv"  # those whose subspaces the paper looks at
SIDES = {"A": directions_of_A, "update": directions_of_update}

Figures = dict[str, Any]
Layers = dict[str, dict[int, AdapterLayer]]  # by projection, then by depth


@dataclass(frozen=True)
class Variant:
    """Which projections are adapted, some of `qkvo`, and at which rank."""

    kinds: str
    rank: int

    def __str__(self) -> str:
        return f"{self.kinds}-{self.rank}"


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Args:
        budget: the rank that one adapted projection has; two have half of it each, four a quarter.
        ranks: rising; the last two are compared.
        seeds: of every training; the last rank is trained with one seed more if there is one only.
    """

    budget: int
    ranks: tuple[int, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.budget < 4 or self.budget % 4:
            raise ConfigError(f"found {self.budget}", where="--budget", expected="a multiple of 4, to be shared by four")
        if len(self.ranks) < 2 or list(self.ranks) != sorted(set(self.ranks)) or self.ranks[0] < 1:
            raise ConfigError(f"found {list(self.ranks)}", where="--ranks", expected="at least two, from 1 on, rising")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"found {list(self.seeds)}", where="--seeds", expected="at least one, each once")

    @property
    def budgeted(self) -> list[Variant]:
        """Table 5: one projection, two, and four, with as many parameters."""
        one = [Variant(kind, self.budget) for kind in KINDS]
        return [*one, *(Variant(pair, self.budget // 2) for pair in ("qk", "qv")), Variant(KINDS, self.budget // 4)]

    @property
    def ranked(self) -> list[Variant]:
        """Table 6: q alone, and q with v, at every rank."""
        return [Variant(kinds, rank) for kinds in ("q", COMPARED) for rank in self.ranks]

    @property
    def largest(self) -> Variant:
        """The variant that two seeds are compared of."""
        return Variant(COMPARED, self.ranks[-1])

    @property
    def pair(self) -> tuple[int, int]:
        """The two seeds that are compared."""
        return (self.seeds[0], self.seeds[1] if len(self.seeds) > 1 else max(self.seeds) + 1)

    @property
    def amplified(self) -> list[Variant]:
        """Table 7: half the budget, and the largest rank."""
        return list(dict.fromkeys([Variant(COMPARED, self.budget // 2), self.largest]))

    def trainings(self) -> list[tuple[Variant, int]]:
        """Every training once, those that the subspaces need first."""
        first = [(self.largest, seed) for seed in self.pair]
        variants = [Variant(COMPARED, self.ranks[-2]), *self.budgeted, *self.ranked]
        return list(dict.fromkeys([*first, *((variant, seed) for seed in self.seeds for variant in variants)]))


def targets(family: str, kinds: str) -> list[str]:
    """The names of these projections in a family of models.

    Raises:
        ModelError: a family whose projections are not known here.
    """
    if family not in FAMILIES:
        raise ModelError(f"family {family!r}", where="--model", expected=f"one of {', '.join(FAMILIES)}")
    parts = FAMILIES[family]
    names = dict(zip(KINDS, [*parts.query_key_value, parts.output], strict=True))
    return [names[kind] for kind in kinds]


def run_place(folder: Path, variant: Variant, seed: int) -> Path:
    """Where a training lies."""
    return folder / "runs" / str(variant) / f"seed-{seed}"


def flags(family: str, variant: Variant, seed: int) -> list[str]:
    """What train.py is told of a training, beside what all of them share."""
    return ["--targets", *targets(family, variant.kinds), "--rank", str(variant.rank), "--seed", str(seed)]


def collect(folder: Path, plan: Plan, family: str, *, depth: int | None = None) -> Figures:
    """Every figure of the section, from the run folders.

    Args:
        depth: the layer whose heat maps are drawn; the middle one if None.

    Raises:
        ConfigError: no such layer.
    """

    def opened(variant: Variant, seed: int) -> Layers:
        """The layers of one training."""
        return layers_of(run_place(folder, variant, seed), family)

    first, second = plan.pair
    largest, smaller = opened(plan.largest, second), opened(Variant(COMPARED, plan.ranks[-2]), first)
    depths = sorted(largest[COMPARED[0]])
    chosen = depths[len(depths) // 2] if depth is None else depth
    if chosen not in depths:
        raise ConfigError(f"found {depth}", where="--layer", expected=f"one of {', '.join(map(str, depths))}")
    same = opened(plan.largest, first)
    return {
        "layer": chosen,
        "budget": [accuracies(folder, variant, plan.seeds) for variant in plan.budgeted],
        "ranks": [accuracies(folder, variant, plan.seeds) for variant in plan.ranked],
        "between_ranks": compare(smaller, largest, chosen),
        "between_seeds": compare(same, largest, chosen),
        "random": chance(same, chosen),
        "amplification": [row for variant in plan.amplified for row in amplified(opened(variant, first))],
    }


def accuracies(folder: Path, variant: Variant, seeds: Sequence[int]) -> Figures:
    """A variant's parameters, and its test accuracy with every seed."""
    reports = [Report.read(run_place(folder, variant, seed) / REPORT) for seed in seeds]
    return {
        "kinds": variant.kinds,
        "rank": variant.rank,
        "parameters": reports[0].parameters.lora,
        "n": reports[0].adapted.n,
        "accuracy": [report.adapted.accuracy for report in reports],
    }


def layers_of(place: Path, family: str) -> Layers:
    """The adapted layers of a run by projection and depth."""
    found = adapter_layers(open_adapter(place / "adapter").base.model)
    endings = dict(zip(KINDS, targets(family, KINDS), strict=True))
    return {
        kind: {layer_index(name) or 0: layer for name, layer in found.items() if name.endswith(f".{ending}")}
        for kind, ending in endings.items()
    }


def compare(first: Layers, second: Layers, depth: int) -> list[Figures]:
    """φ of q and of v, by A and by ΔW: the whole grid at one depth, and its corners as means over all depths."""
    rows = []
    for side, directions in SIDES.items():
        for kind in COMPARED:
            grids = {at: similarity(directions(first[kind][at]), directions(layer)) for at, layer in second[kind].items()}
            shape, n = grids[depth].shape, directions(first[kind][depth]).shape[0]
            corners = {
                f"{i},{j}": {
                    "mean": sum(grid[i - 1, j - 1].item() for grid in grids.values()) / len(grids),
                    "random": expected_similarity(i, j, n),
                }
                for i, j in dict.fromkeys([(1, 1), (1, shape[1]), (min(8, shape[0]), min(8, shape[1])), tuple(shape)])
            }
            rows.append({"of": side, "kind": kind, "grid": grids[depth].tolist(), "corners": corners})
    return rows


def chance(layers: Layers, depth: int) -> list[list[float]]:
    """φ of two random subspaces as large as those of the largest rank."""
    n, rank = directions_of_A(layers[COMPARED[0]][depth]).shape
    first, second = (random_directions(n, rank, named_generator(0, f"section 7 {number}")) for number in (1, 2))
    grid: Tensor = similarity(first, second)
    return [[float(value) for value in row] for row in grid]


def amplified(layers: Layers) -> list[Figures]:
    """Table 7 of every layer of q and v."""
    return [
        {"kind": kind, "layer": at, **asdict(amplification(layer, named_generator(0, f"section 7 {kind} {at}")))}
        for kind in COMPARED
        for at, layer in layers[kind].items()
    ]
