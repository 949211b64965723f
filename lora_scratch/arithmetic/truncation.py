r"""The ranks that an adapter needs: keep the strongest singular directions of all modules together.

    keep (module m, direction i)   ⇔   σₘᵢ is among the k largest of all modules,
                                       k the smallest number with Σ kept σ² ≥ energy · Σ σ²

A module with a weak update gets rank 0 and is left out. By Eckart and Young no other k directions
are nearer to ΔW in the Frobenius norm; the loss is √Σ σ² over the dropped ones. The norm of ΔW is
not its effect on a text: an embedding, with its one-hot inputs, looks stronger than it is.

Source: Eckart and Young 1936, The approximation of one matrix by another of lower rank,
    Psychometrika 1:211-218.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from ..adapter.factors import LowRankSVD
from ..errors import ConfigError
from .operations import leading_factors
from .update import AdapterUpdate

Spectra = Mapping[str, LowRankSVD]
ROUNDING = torch.finfo(torch.float32).eps ** 2  # of the energy: below the error of float32 factors


def decompose(update: AdapterUpdate) -> dict[str, LowRankSVD]:
    """Return the singular value decomposition of every ΔW."""
    return {name: factors.svd() for name, factors in update.factors.items()}


def choose_ranks(spectra: Spectra, energy: float) -> dict[str, int]:
    """Return every module's rank: the fewest directions that hold `energy` of Σ‖ΔW‖².

    Energy 1 drops only what is zero up to rounding. Raises ConfigError for an energy outside (0, 1]
    and for updates that are all zero.
    """
    if not 0 < energy <= 1:
        raise ConfigError(f"found {energy}", where="energy", expected="above 0 and at most 1")
    spectrum = [svd.S for svd in spectra.values()]
    values, order = torch.cat(spectrum).sort(descending=True, stable=True)
    rest = values.square().flip(0).cumsum(0).flip(0)  # of a direction and of all weaker ones
    if not rest[0] > 0:
        problem = "every update is zero: there is nothing to compress"
        raise ConfigError(problem, expected="a trained adapter")
    kept = order[rest > max(1 - energy, ROUNDING) * rest[0]]
    module = torch.repeat_interleave(torch.tensor([*map(len, spectrum)]))  # of every direction
    return dict(zip(spectra, module[kept].bincount(minlength=len(spectra)).tolist(), strict=True))


def kept_energy(spectra: Spectra, ranks: Mapping[str, int]) -> float:
    """Return the share of Σ‖ΔW‖² that the first `ranks` directions hold."""
    kept = sum(svd.S[: ranks[name]].square().sum().item() for name, svd in spectra.items())
    return kept / sum(svd.S.square().sum().item() for svd in spectra.values())


def truncate(update: AdapterUpdate, spectra: Spectra, ranks: Mapping[str, int]) -> AdapterUpdate:
    """Keep the first `ranks` directions of every module; a module of rank 0 is no target any more.

    With bias "lora_only" every module keeps rank 1 at least: else its trained bias would be lost.
    """
    if update.config.bias == "lora_only":
        ranks = {name: max(rank, 1) for name, rank in ranks.items()}
    kept = {name: svd for name, svd in spectra.items() if ranks[name]}
    factors = {name: leading_factors(svd, ranks[name]) for name, svd in kept.items()}
    config = replace(update.config, targets=list(factors), exclude=None, layers=None)
    return replace(update, config=config, factors=factors)
