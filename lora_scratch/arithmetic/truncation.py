r"""Which ranks an adapter needs: the strongest singular directions of all modules together, and nothing of the others.

    keep (module m, direction i)   ⇔   σₘᵢ is among the k largest of all modules,
                                       k the smallest number with Σ kept σ² ≥ energy · Σ σ²

One threshold on σ gives every module its own rank; one whose update is weak against the others gets rank 0 and is left out.
By Eckart and Young no other update of these modules with k directions in all is nearer to the whole in the Frobenius norm,
and what is lost of it is √Σ σ² over those dropped. The norm is that of ΔW, not of what ΔW does to a text: an embedding,
whose inputs are one-hot, looks stronger in it than a linear layer.

Source: Eckart and Young 1936, The approximation of one matrix by another of lower rank, Psychometrika 1:211-218.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from ..adapter.factors import LowRankSVD, low_rank_svd
from ..errors import ConfigError
from .operations import leading
from .update import AdapterUpdate

ROUNDING = torch.finfo(torch.float32).eps ** 2  # of the energy: less than what storing factors in float32 adds to it


def decompose(update: AdapterUpdate) -> dict[str, LowRankSVD]:
    """The singular value decomposition of every ΔW, from its factors."""
    return {name: low_rank_svd(each.lora_A, each.lora_B) for name, each in update.factors.items()}


def allot(spectra: Mapping[str, LowRankSVD], energy: float) -> dict[str, int]:
    """How many leading directions each module keeps, so that all together hold `energy` of Σ‖ΔW‖² with the fewest.

    Energy 1 drops what is zero up to rounding, and nothing else.

    Raises:
        ConfigError: an energy outside (0, 1], or updates that are all zero.
    """
    if not 0 < energy <= 1:
        raise ConfigError(f"found {energy}", where="energy", expected="above 0 and at most 1")
    values, order = torch.cat([each.S for each in spectra.values()]).sort(descending=True, stable=True)
    rest = values.square().flip(0).cumsum(0).flip(0)  # the energy of a direction and of all weaker ones
    if not rest[0] > 0:
        raise ConfigError("every update is zero: there is nothing to compress", expected="a trained adapter")
    kept = order[rest > max(1 - energy, ROUNDING) * rest[0]]
    owner = torch.repeat_interleave(torch.tensor([len(each.S) for each in spectra.values()]))
    return dict(zip(spectra, owner[kept].bincount(minlength=len(spectra)).tolist(), strict=True))


def kept_energy(spectra: Mapping[str, LowRankSVD], ranks: Mapping[str, int]) -> float:
    """The share of Σ‖ΔW‖² that the leading `ranks` directions hold."""
    kept = sum(each.S[: ranks[name]].square().sum().item() for name, each in spectra.items())
    return kept / sum(each.S.square().sum().item() for each in spectra.values())


def truncate(update: AdapterUpdate, spectra: Mapping[str, LowRankSVD], ranks: Mapping[str, int]) -> AdapterUpdate:
    """The update with the leading `ranks` directions of every module; one of rank 0 is no target any more.

    A module whose bias is trained because the module is adapted (`bias` is "lora_only") keeps rank 1: there is no other way
    to say so.
    """
    if update.config.bias == "lora_only":
        ranks = {name: max(rank, 1) for name, rank in ranks.items()}
    factors = {name: leading(each, ranks[name]) for name, each in spectra.items() if ranks[name]}
    return replace(update, config=replace(update.config, targets=list(factors), exclude=None, layers=None), factors=factors)
