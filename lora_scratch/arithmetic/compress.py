"""The smallest adapter that is not significantly worse.

Candidates hold less and less of the update, and each is tested against the whole adapter on the
validation rows. The search stops at the first one that is significantly worse, and the one before
it is chosen: if a smaller one passed again, it would be by luck. "Not significantly worse" is not
"equally good". So the chosen adapter is measured on the test rows, which the search did not use.
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
from ..evaluation import versions
from ..runs.model_card import compressed_card
from ..runs.trained_adapter import TrainedAdapter
from ..serialization import AdapterContents, save_adapter
from ..tasks import TITLES, Interval, Paired
from ..tasks.task import BETTER, WORSE
from .truncation import choose_ranks, decompose, kept_energy, truncate
from .update import AdapterUpdate, install_update, take_update

ENERGIES = (1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.92, 0.9, 0.85, *(n / 10 for n in range(8, 0, -1)))

Predict = Callable[[Encoded], Tensor]


@dataclass(frozen=True)
class Size:
    """The numbers in A and B, and the bytes of the adapter file, which holds the head too."""

    parameters: int
    file_bytes: int


@dataclass(frozen=True)
class Candidate:
    """An adapter of lower ranks.

    Args:
        energy: the share of Σ‖ΔW‖² to hold at least.
        kept: the share that it holds.
        ranks: of every module, 0 for one that is left out.
        validation: the test against the whole adapter.
    """

    energy: float
    kept: float
    ranks: dict[str, int]
    size: Size
    validation: Paired


@dataclass(frozen=True)
class Compression:
    """The result of a search.

    Args:
        score: the name of the task's headline score.
        ranks, size, validation, test: of the whole adapter; the last two are its scores.
        candidates: in the order of the search; the last can be the one that is worse.
        rows: the number of test rows.
        tested, interval: the chosen adapter on these rows, and the 95 % interval of its change.
    """

    score: str
    ranks: dict[str, int]
    size: Size
    validation: float
    test: float
    candidates: list[Candidate]
    chosen: Candidate
    rows: int
    tested: Paired
    interval: Interval

    def as_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def compress(
    saved: TrainedAdapter,
    predict: Predict,
    *,
    validation: Encoded,
    test: Encoded,
    energies: Iterable[float] = ENERGIES,
) -> Compression:
    """Search, and leave the chosen adapter in the model of `saved`.

    Args:
        predict: returns the logits of that model as it is at the call.

    Raises:
        ConfigError: DoRA, an energy outside (0, 1], or no candidate that keeps the accuracy.
    """
    whole, whole_test, size = predict(validation), predict(test), _size(saved)
    update = take_update(saved.base.model)
    spectra, candidates = decompose(update), list[Candidate]()
    for energy in tqdm(sorted(set(energies), reverse=True), desc="compress", unit="step"):
        smaller = truncate(update, spectra, choose_ranks(spectra, energy))
        ranks = dict.fromkeys(spectra, 0) | _ranks(smaller)
        if candidates and ranks == candidates[-1].ranks:
            continue
        _replace_adapter(saved, smaller)
        verdict = saved.task.paired(whole, predict(validation), validation.labels)
        kept = kept_energy(spectra, ranks)
        candidates.append(Candidate(energy, kept, ranks, _size(saved), verdict))
        if verdict.word == WORSE:
            break
    chosen = _choose(candidates)
    _replace_adapter(saved, truncate(update, spectra, chosen.ranks))
    logits, task = predict(test), saved.task
    name = task.metrics_type.headline_name
    return Compression(
        score=TITLES[name],
        ranks=_ranks(update),
        size=size,
        validation=task.measure(whole, validation.labels).headline,
        test=task.measure(whole_test, test.labels).headline,
        candidates=candidates,
        chosen=chosen,
        rows=len(test),
        tested=task.paired(whole_test, logits, test.labels),
        interval=task.intervals(whole_test, logits, test.labels)[name],
    )


def save_compression(
    saved: TrainedAdapter,
    compression: Compression,
    folder: Path,
    *,
    command: str,
) -> Path:
    """Write the chosen adapter; its provenance.json says what it was made from, and how."""
    base, origin = saved.base, str(saved.folder)
    selected = saved.provenance.select("adapter_sha256", "validation", "combined", "compressed")
    history = {
        **saved.provenance.select("labels", "task", "decision", "data", "training"),
        "versions": versions(),
        "command": command,
        "compressed": {"from": {"folder": origin, **selected}, **compression.as_json()},
    }
    card = compressed_card(base.name, saved.provenance, origin, describe(compression), command=command)
    return save_adapter(base.model, folder, base_model=base.name, notes=history, card=card)


def describe(compression: Compression) -> str:
    """Return sentences: how much smaller the adapter is, and the change on the test rows."""
    whole, size = compression.size, compression.chosen.size
    tested, interval = compression.tested, compression.interval
    endings = {WORSE: "significantly worse", BETTER: "significantly better"}
    return (
        f"{whole.parameters / size.parameters:.1f} times fewer numbers in A and B "
        f"({whole.parameters:,} -> {size.parameters:,}), "
        f"a file {whole.file_bytes / size.file_bytes:.1f} times smaller "
        f"({whole.file_bytes:,} -> {size.file_bytes:,} bytes).\n"
        f"On the {compression.rows:,} test rows, which took no part in the choice, the {compression.score} "
        f"goes from {compression.test:.4f} to {tested.score:.4f}, a change of "
        f"{tested.change:+.4f} (95 % interval {interval.low:+.4f} to {interval.high:+.4f}),\n"
        f"with {tested.fixed} rows fixed and {tested.broken} broken (p = {tested.p_value:.2g}): "
        f"{endings.get(tested.word, 'a difference is not shown')}."
    )


def _choose(candidates: list[Candidate]) -> Candidate:
    passed = [candidate for candidate in candidates if candidate.validation.word != WORSE]
    if not passed:
        kept, p_value = candidates[0].kept, candidates[0].validation.p_value
        raise ConfigError(
            f"holding {kept:.2%} of the update is already significantly worse (p = {p_value:.2g})",
            where="--energies",
            remedy="begin with more, at most 1",
        )
    return passed[-1]


def _ranks(update: AdapterUpdate) -> dict[str, int]:
    return {name: factors.rank for name, factors in update.factors.items()}


def _replace_adapter(saved: TrainedAdapter, update: AdapterUpdate) -> None:
    model = remove_adapter(saved.base.model)
    install_update(model, update, seed=saved.provenance.seed).eval()


def _size(saved: TrainedAdapter) -> Size:
    contents = AdapterContents.of(saved.base.model)
    parameters = sum(tensor.numel() for tensor in contents.adapter.values())
    return Size(parameters, len(contents.as_bytes()))
