"""Section 7 of the LoRA paper on another model: the trainings, and the figures of their adapters.

7.1 which matrices to adapt with a fixed number of parameters; 7.2 which rank, and how much the
subspaces of two ranks and of two seeds share; 7.3 how ΔW relates to W. The paper compares the
right singular directions of A. These figures add ΔW, because A stays close to its random start.
With one seed, A of rank 64 starts with the rows of A of rank 8, so two ranks have two seeds.

Source: Hu et al. 2021, LoRA, arXiv:2106.09685, section 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..adapter import adapter_layers
from ..adapter.targets import layer_index
from ..errors import ConfigError, ModelError
from ..evaluation import Report
from ..layers import AdapterLayer
from ..model.families import FAMILIES
from ..runs.resume import REPORT
from ..runs.trained_adapter import open_adapter
from ..runtime.seeds import named_generator
from ..tasks import TITLES
from .subspace import (
    amplification,
    directions_of_A,
    directions_of_update,
    expected_similarity,
    random_directions,
    similarity,
)

KINDS = "qkvo"  # the projections of attention, in the order of the paper
COMPARED = "qv"  # the projections whose subspaces the paper compares
SIDES = {"A": directions_of_A, "update": directions_of_update}

Figures = dict[str, Any]
Layers = dict[str, dict[int, AdapterLayer]]  # by projection, then by depth


@dataclass(frozen=True)
class Variant:
    """The adapted projections, some of `qkvo`, and their rank."""

    kinds: str
    rank: int

    def __str__(self) -> str:
        return f"{self.kinds}-{self.rank}"


@dataclass(frozen=True)
class Plan:
    """The trainings.

    Args:
        budget: the rank of one adapted projection; two have half of it, four have a quarter.
        ranks: rising; the last two are compared.
        seeds: of every training; if there is one only, the last rank gets a second one.
    """

    budget: int
    ranks: tuple[int, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        ranks, seeds = list(self.ranks), list(self.seeds)
        if self.budget < 4 or self.budget % 4:
            expected = "a multiple of 4, to be shared by four"
            raise ConfigError(f"found {self.budget}", where="--budget", expected=expected)
        if len(ranks) < 2 or ranks != sorted(set(ranks)) or ranks[0] < 1:
            expected = "at least two, from 1 on, rising"
            raise ConfigError(f"found {ranks}", where="--ranks", expected=expected)
        if not seeds or len(set(seeds)) < len(seeds):
            expected = "at least one, each once"
            raise ConfigError(f"found {seeds}", where="--seeds", expected=expected)

    @property
    def budgeted(self) -> list[Variant]:
        """Table 5: one, two and four projections with the same number of parameters."""
        one = [Variant(kind, self.budget) for kind in KINDS]
        two = [Variant(pair, self.budget // 2) for pair in ("qk", "qv")]
        return [*one, *two, Variant(KINDS, self.budget // 4)]

    @property
    def ranked(self) -> list[Variant]:
        """Table 6: q alone, and q with v, at every rank."""
        return [Variant(kinds, rank) for kinds in ("q", COMPARED) for rank in self.ranks]

    @property
    def largest(self) -> Variant:
        """The variant that is compared between two seeds."""
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
        """Return every training once, with its seed."""
        first = [(self.largest, seed) for seed in self.pair]
        variants = [Variant(COMPARED, self.ranks[-2]), *self.budgeted, *self.ranked]
        others = [(variant, seed) for seed in self.seeds for variant in variants]
        return list(dict.fromkeys([*first, *others]))


def targets(family: str, kinds: str) -> list[str]:
    """Return the names of these projections. Raises ModelError for an unknown family."""
    separate = {name: parts for name, parts in FAMILIES.items() if parts.query_key_value}
    if family not in separate:
        expected = f"one of {', '.join(separate)}"
        raise ModelError(f"family {family!r}", where="--model", expected=expected)
    parts = separate[family]
    names = dict(zip(KINDS, [*parts.query_key_value, parts.output], strict=True))
    return [names[kind] for kind in kinds]


def run_place(folder: Path, variant: Variant, seed: int) -> Path:
    """Return the run folder of a training."""
    return folder / "runs" / str(variant) / f"seed-{seed}"


def flags(family: str, variant: Variant, seed: int) -> list[str]:
    """Return the flags of train that only this training has."""
    names = targets(family, variant.kinds)
    return ["--targets", *names, "--rank", str(variant.rank), "--seed", str(seed)]


def collect(folder: Path, plan: Plan, family: str, *, depth: int | None = None) -> Figures:
    """Return every figure of the section, from the run folders.

    Args:
        depth: the layer to draw heat maps of; the middle one if None. Raises ConfigError if absent.
    """

    def layers(variant: Variant, seed: int) -> Layers:
        """Return the adapted layers of one training."""
        return layers_of(run_place(folder, variant, seed), family)

    first, second = plan.pair
    largest = layers(plan.largest, second)
    depths = sorted(largest[COMPARED[0]])
    chosen = depths[len(depths) // 2] if depth is None else depth
    if chosen not in depths:
        expected = f"one of {', '.join(map(str, depths))}"
        raise ConfigError(f"found {depth}", where="--layer", expected=expected)
    smaller, same = layers(Variant(COMPARED, plan.ranks[-2]), first), layers(plan.largest, first)
    return {
        "layer": chosen,
        "budget": [accuracies(folder, variant, plan.seeds) for variant in plan.budgeted],
        "ranks": [accuracies(folder, variant, plan.seeds) for variant in plan.ranked],
        "between_ranks": compare(smaller, largest, chosen),
        "between_seeds": compare(same, largest, chosen),
        "random": random_similarity(same, chosen),
        "amplification": [row for v in plan.amplified for row in amplifications(layers(v, first))],
    }


def accuracies(folder: Path, variant: Variant, seeds: Sequence[int]) -> Figures:
    """Return a variant's parameters, and its headline score on the test rows with every seed."""
    reports = [Report.read(run_place(folder, variant, seed) / REPORT) for seed in seeds]
    return {
        "kinds": variant.kinds,
        "rank": variant.rank,
        "parameters": reports[0].parameters.lora,
        "n": reports[0].adapted.n,
        "score": TITLES[reports[0].adapted.headline_name],
        "accuracy": [report.adapted.headline for report in reports],
    }


def layers_of(place: Path, family: str) -> Layers:
    """Return the adapted layers of a run by projection and depth."""
    layers = adapter_layers(open_adapter(place / "adapter").base.model).items()
    by_kind: Layers = {}
    for kind, ending in zip(KINDS, targets(family, KINDS), strict=True):
        named = [(name, layer) for name, layer in layers if name.endswith(f".{ending}")]
        by_kind[kind] = {layer_index(name) or 0: layer for name, layer in named}
    return by_kind


def compare(first: Layers, second: Layers, depth: int) -> list[Figures]:
    """Return φ of q and v by A and by ΔW: all of `depth`, and corners as means over the layers."""
    rows = []
    for side, directions in SIDES.items():
        for kind in COMPARED:
            pairs = {at: (first[kind][at], layer) for at, layer in second[kind].items()}
            grids = {at: similarity(*map(directions, pair)) for at, pair in pairs.items()}
            (high, wide), n = grids[depth].shape, directions(first[kind][depth]).shape[0]
            places = dict.fromkeys([(1, 1), (1, wide), (min(8, high), min(8, wide)), (high, wide)])
            corners = {
                f"{i},{j}": {
                    "mean": sum(grid[i - 1, j - 1].item() for grid in grids.values()) / len(grids),
                    "random": expected_similarity(i, j, n),
                }
                for i, j in places
            }
            grid = grids[depth].tolist()
            rows.append({"of": side, "kind": kind, "grid": grid, "corners": corners})
    return rows


def random_similarity(layers: Layers, depth: int) -> list[list[float]]:
    """Return φ of two random subspaces of the size of the largest rank."""
    n, rank = directions_of_A(layers[COMPARED[0]][depth]).shape
    generators = [named_generator(0, f"section 7 {number}") for number in (1, 2)]
    first, second = (random_directions(n, rank, generator) for generator in generators)
    grid: list[list[float]] = similarity(first, second).tolist()
    return grid


def amplifications(layers: Layers) -> list[Figures]:
    """Return the rows of table 7: every layer of q and v."""
    return [
        {"kind": kind, "layer": at, **asdict(amplification(layer, generator))}
        for kind in COMPARED
        for at, layer in layers[kind].items()
        for generator in [named_generator(0, f"section 7 {kind} {at}")]
    ]
