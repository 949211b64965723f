"""The smallest adapter that is not significantly worse: candidates judged on validation rows, the chosen one tested once.

The candidates hold less and less of the update. The first one that is significantly worse than the whole ends the search,
and the one before it is chosen: a smaller one that passes again would have passed by luck. Not significantly worse is not
equally good, so what the chosen one gives on the test rows, which took no part in the choice, is what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..adapter import remove_adapter
from ..data import Encoded
from ..errors import ConfigError
from ..evaluation import Interval, Paired, measure, paired, paired_intervals, versions
from ..evaluation.verdict import BETTER, WORSE
from ..runs.model_card import compressed_card
from ..runs.trained_adapter import TrainedAdapter
from ..serialization import AdapterContents, save_adapter
from .truncation import allot, decompose, kept_energy, truncate
from .update import AdapterUpdate, install_update, take_update

ENERGIES = (1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.92, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)

Predict = Callable[[Encoded], Tensor]


@dataclass(frozen=True)
class Size:
    """Of an adapter: the numbers in A and B, and the bytes of its file, which holds the head too."""

    parameters: int
    file_bytes: int


@dataclass(frozen=True)
class Candidate:
    """An adapter of lower ranks.

    Args:
        energy: the share of Σ‖ΔW‖² that it was to hold.
        kept: what it does hold.
        ranks: of every module, 0 for one that is left out.
        validation: against the whole adapter.
    """

    energy: float
    kept: float
    ranks: dict[str, int]
    size: Size
    validation: Paired


@dataclass(frozen=True)
class Compression:
    """A search and what it came to.

    Args:
        ranks, size, validation, test: of the whole adapter; the latter two are its accuracies.
        candidates: in the order they were tried; the last may be the one that was worse.
        rows: of the test split.
        tested, interval: the chosen one there, and the 95 % interval of its change of accuracy.
    """

    ranks: dict[str, int]
    size: Size
    validation: float
    test: float
    candidates: list[Candidate]
    chosen: Candidate
    rows: int
    tested: Paired
    interval: Interval

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compress(
    saved: TrainedAdapter, predict: Predict, *, validation: Encoded, test: Encoded, energies: Iterable[float] = ENERGIES
) -> Compression:
    """Search, and leave the chosen adapter in the model of `saved`.

    Args:
        predict: the logits of that model, as it is when called.

    Raises:
        ConfigError: DoRA, which has no low rank, energies outside (0, 1], or none that keeps the accuracy.
    """
    model, whole = saved.base.model, predict(validation)
    whole_test, size = predict(test), _size(saved)
    update = take_update(model)
    spectra, candidates = decompose(update), list[Candidate]()
    for energy in tqdm(sorted(set(energies), reverse=True), desc="compress", unit="step"):
        smaller = truncate(update, spectra, allot(spectra, energy))
        ranks = {name: smaller.factors[name].rank if name in smaller.factors else 0 for name in spectra}
        if candidates and ranks == candidates[-1].ranks:
            continue
        _put(saved, smaller)
        verdict = paired(whole, predict(validation), validation.labels)
        candidates.append(Candidate(energy, kept_energy(spectra, ranks), ranks, _size(saved), verdict))
        if verdict.word == WORSE:
            break
    chosen = _chosen(candidates)
    _put(saved, truncate(update, spectra, chosen.ranks))
    logits = predict(test)
    return Compression(
        ranks={name: factors.rank for name, factors in update.factors.items()},
        size=size,
        validation=measure(whole, validation.labels).accuracy,
        test=measure(whole_test, test.labels).accuracy,
        candidates=candidates,
        chosen=chosen,
        rows=len(test),
        tested=paired(whole_test, logits, test.labels),
        interval=paired_intervals(whole_test, logits, test.labels).accuracy,
    )


def save_compression(saved: TrainedAdapter, found: Compression, folder: Path, *, command: str) -> Path:
    """Write the model's adapter, which is the chosen one; provenance.json says of what, and how it was chosen.

    Raises:
        LoraScratchError: the folder can't be written.
    """
    origin = saved.provenance.select("adapter_sha256", "validation", "combined", "compressed")
    history: dict[str, Any] = {
        **saved.provenance.select("labels", "data", "training"),
        "versions": versions(),
        "command": command,
        "compressed": {
            "from": {"folder": str(saved.folder), **origin},
            **found.record(),
        },
    }
    card = compressed_card(saved.base.name, saved.labels, str(saved.folder), in_words(found), command=command)
    return save_adapter(saved.base.model, folder, base_model=saved.base.name, notes=history, card=card)


def in_words(found: Compression) -> str:
    """How much smaller, and what that costs on the test rows."""
    whole, size, tested, interval = found.size, found.chosen.size, found.tested, found.interval
    ending = {WORSE: "significantly worse", BETTER: "significantly better"}.get(tested.word, "a difference is not shown")
    return (
        f"{whole.parameters / size.parameters:.1f} times fewer numbers in A and B ({whole.parameters:,} -> "
        f"{size.parameters:,}), a file {whole.file_bytes / size.file_bytes:.1f} times smaller ({whole.file_bytes:,} -> "
        f"{size.file_bytes:,} bytes).\nOn the {found.rows:,} test rows, which took no part in the choice, the accuracy goes "
        f"from {found.test:.4f} to {tested.accuracy:.4f}, a change of {tested.change:+.4f} (95 % interval "
        f"{interval.low:+.4f} to {interval.high:+.4f}),\nwith {tested.fixed} rows fixed and {tested.broken} broken "
        f"(p = {tested.p_value:.2g}): {ending}."
    )


def _chosen(candidates: list[Candidate]) -> Candidate:
    fit = [each for each in candidates if each.validation.word != WORSE]
    if not fit:
        first = candidates[0]
        raise ConfigError(
            f"holding {first.kept:.2%} of the update is already significantly worse (p = {first.validation.p_value:.2g})",
            where="--energies",
            remedy="begin with more, at most 1",
        )
    return fit[-1]


def _put(saved: TrainedAdapter, update: AdapterUpdate) -> None:
    install_update(remove_adapter(saved.base.model), update, seed=saved.provenance.seed).eval()


def _size(saved: TrainedAdapter) -> Size:
    contents = AdapterContents.of(saved.base.model)
    return Size(sum(tensor.numel() for tensor in contents.adapter.values()), len(contents.as_bytes()))
