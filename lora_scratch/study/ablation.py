"""What carries the gain: the adapter without each of its parts, with nothing but one of them, and at other strengths.

Each trial is compared with the whole adapter on the same rows. There are dozens of them, so a p-value alone would find
something in noise: Holm's correction over all trials of the ablation goes with it. Losses need not add up to the gain: one
part can do the work of another, or need it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from ..adapter import adapter_layers, disabled, scaled, without
from ..data import Encoded
from ..evaluation import McNemar, Paired, holm, measure, paired, word_of
from ..reporting.anatomy import depth, projections

STRENGTHS = tuple(step / 8 for step in range(13))  # 0 to 1.5
ALL, PROJECTION, LAYER, MODULE = "all", "projection", "layer", "module"
WITHOUT, ONLY, STRENGTH = "without", "only", "strength"

Predict = Callable[[Encoded], Tensor]
Switch = Callable[[], AbstractContextManager[nn.Module]]


@dataclass(frozen=True)
class Part:
    """Some of the adapted modules: all of them, one projection of every layer, one layer, or one module."""

    group: str
    name: str
    modules: frozenset[str]


@dataclass(frozen=True)
class Trial:
    """The model without a part of the adapter, with only that part, or with all of it at another strength.

    Args:
        what: `without`, `only` or `strength`.
        group, name: of the part; of a strength `all` and the factor.
        found: against the whole adapter, the word by the corrected p.
        p_holm: corrected for the number of trials.
    """

    what: str
    group: str
    name: str
    found: Paired
    p_holm: float


@dataclass(frozen=True)
class Ablation:
    """All trials, and the accuracies they are seen against.

    Args:
        rows: how many there are.
        baseline: of the base model, before training.
        adapted: of the whole adapter.
        bare: of the trained head, and biases, on the base: what is left without any update of a weight.
    """

    rows: int
    baseline: float
    adapted: float
    bare: float
    trials: list[Trial]

    @property
    def gain(self) -> float:
        """What the updates bring, in accuracy."""
        return self.adapted - self.bare

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def share(self, trial: Trial) -> float | None:
        """Of the gain: what is lost without a part, or is there with only that part; None where there is no gain."""
        if self.gain <= 0 or trial.what == STRENGTH:
            return None
        kept = (trial.found.accuracy - self.bare) / self.gain
        return kept if trial.what == ONLY else 1 - kept


def parts(names: Sequence[str]) -> list[Part]:
    """All modules, then each projection, each layer and each module; a group that is one of the others is left out."""
    named = projections(names)
    found = [Part(ALL, "updates", frozenset(names))]
    groups: dict[tuple[str, str], list[str]] = {}
    for group, of in ((PROJECTION, named.__getitem__), (LAYER, depth)):
        for name in names:
            groups.setdefault((group, of(name)), []).append(name)
    found += [Part(*key, frozenset(each)) for key, each in groups.items() if 1 < len(each) < len(names)]
    return found + [Part(MODULE, name, frozenset([name])) for name in names if len(names) > 1]


def ablate(model: nn.Module, predict: Predict, encoded: Encoded, *, strengths: Iterable[float] = STRENGTHS) -> Ablation:
    """Every trial on these rows; the model is as it was afterwards.

    Args:
        predict: the logits of `model`, as it is when called.
    """
    whole = predict(encoded)
    with disabled(model):
        baseline = predict(encoded)
    trials: list[Trial] = []
    switches = list(_switches(model, strengths))
    for what, group, name, switch in tqdm(switches, desc="ablation", unit="run"):
        with switch():
            trials.append(Trial(what, group, name, paired(whole, predict(encoded), encoded.labels), 1.0))
    trials = _corrected(trials)
    return Ablation(
        rows=len(encoded),
        baseline=measure(baseline, encoded.labels).accuracy,
        adapted=measure(whole, encoded.labels).accuracy,
        bare=next(trial.found.accuracy for trial in trials if (trial.what, trial.group) == (WITHOUT, ALL)),
        trials=trials,
    )


def carriers(found: Ablation) -> str:
    """What the updates bring, and by which parts."""
    lines = [
        f"The updates of the weights take the accuracy from {found.bare:.4f}, which the trained head has on the base alone, "
        f"to {found.adapted:.4f} on {found.rows:,} rows (the base before training: {found.baseline:.4f})."
    ]
    for what, words in ((WITHOUT, "Most is lost without"), (ONLY, "Most is there with only")):
        for group in (PROJECTION, LAYER, MODULE):
            shares = {
                trial.name: share for trial in found.trials if (share := _share_in(found, trial, what, group)) is not None
            }
            if shares:
                name = max(shares, key=lambda each: shares[each])
                lines.append(f"{words} {group} {name}: {shares[name]:.0%} of that gain.")
    return "\n".join(lines)


def _share_in(found: Ablation, trial: Trial, what: str, group: str) -> float | None:
    return found.share(trial) if (trial.what, trial.group) == (what, group) else None


def _switches(model: nn.Module, strengths: Iterable[float]) -> Iterator[tuple[str, str, str, Switch]]:
    names: Collection[str] = adapter_layers(model).keys()
    for part in parts(list(names)):
        yield WITHOUT, part.group, part.name, partial(without, model, part.modules)
        if part.group in (PROJECTION, LAYER):
            yield ONLY, part.group, part.name, partial(without, model, frozenset(names) - part.modules)
    for strength in strengths:
        yield STRENGTH, ALL, f"{strength:g}", partial(scaled, model, strength)


def _corrected(trials: Sequence[Trial]) -> list[Trial]:
    corrected = holm([trial.found.p_value for trial in trials])
    return [
        replace(trial, p_holm=p, found=replace(trial.found, word=word_of(McNemar(trial.found.fixed, trial.found.broken, p))))
        for trial, p in zip(trials, corrected, strict=True)
    ]
