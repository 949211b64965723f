"""Which parts of an adapter bring the gain: without a part, with only one, at another strength.

Every trial is compared with the whole adapter on the same rows. Dozens of trials find something in
noise, so Holm's correction over all of them is used. Losses need not add up to the gain: two parts
can do the same work, or need each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from ..adapter import adapter_layers, disabled, scaled, without
from ..data import Encoded
from ..reporting.anatomy import depth, projections
from ..tasks import TITLES, Paired, Task
from .comparison import correct_tests

STRENGTHS = tuple(step / 8 for step in range(13))  # 0 to 1.5
ALL, PROJECTION, LAYER, MODULE = "all", "projection", "layer", "module"
WITHOUT, ONLY, STRENGTH = "without", "only", "strength"
JSON_NAMES = {"kind": "what", "test": "found"}  # the names in the JSON file

Strengths = Sequence[float]
Predict = Callable[[Encoded], Tensor]
Toggle = Callable[[], AbstractContextManager[nn.Module]]
Named = tuple[str, str, str, Toggle]  # kind, group and name of a trial, and its context


@dataclass(frozen=True)
class Part:
    """Some of the adapted modules: all, one projection of every layer, one layer, or one module."""

    group: str
    name: str
    modules: frozenset[str]


@dataclass(frozen=True)
class Trial:
    """The model without a part of the adapter, with only that part, or at another strength.

    Args:
        kind: `without`, `only` or `strength`.
        group, name: of the part; `all` and the factor for a strength.
        test: against the whole adapter; its word is by `p_holm`.
        p_holm: the p-value, corrected for the number of trials.
    """

    kind: str
    group: str
    name: str
    test: Paired
    p_holm: float

    @property
    def title(self) -> str:
        """The part with its group, as `layer 0`; the factor for a strength."""
        return self.name if self.kind == STRENGTH else f"{self.group} {self.name}"


@dataclass(frozen=True)
class Ablation:
    """All trials, and scores to compare them with.

    Args:
        rows: the number of rows.
        score: the name of the task's headline score, which all figures are.
        test_title: the name of its paired test.
        baseline: of the base model before training.
        adapted: with the whole adapter.
        bare: with the trained head and biases, and no update of a weight.
    """

    rows: int
    score: str
    test_title: str
    baseline: float
    adapted: float
    bare: float
    trials: list[Trial]

    @property
    def gain(self) -> float:
        """The score that the updates of the weights add."""
        return self.adapted - self.bare

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that `ablate --json` writes."""
        return asdict(self, dict_factory=lambda pairs: {JSON_NAMES.get(k, k): v for k, v in pairs})

    def share(self, trial: Trial) -> float | None:
        """Return the share of the gain that is lost without a part, or kept with only that part.

        None for a strength, and where there is no gain.
        """
        if self.gain <= 0 or trial.kind == STRENGTH:
            return None
        kept = (trial.test.score - self.bare) / self.gain
        return kept if trial.kind == ONLY else 1 - kept


def parts(names: Sequence[str]) -> list[Part]:
    """Return all modules, every projection, every layer and every module; no set twice."""
    named = projections(names)
    groups: dict[tuple[str, str], list[str]] = {}
    for group, name_of in ((PROJECTION, named.__getitem__), (LAYER, depth)):
        for name in names:
            groups.setdefault((group, name_of(name)), []).append(name)
    between = [Part(*key, frozenset(m)) for key, m in groups.items() if 1 < len(m) < len(names)]
    single = [Part(MODULE, name, frozenset([name])) for name in names if len(names) > 1]
    return [Part(ALL, "updates", frozenset(names)), *between, *single]


def ablate(model: nn.Module, predict: Predict, rows: Encoded, strengths: Strengths, *, task: Task) -> Ablation:
    """Run every trial; `predict` returns the logits of the model, which is not changed."""
    whole = predict(rows)
    with disabled(model):
        baseline = predict(rows)
    toggles, tests = list(_toggles(model, strengths)), list[Paired]()
    for *_, toggle in tqdm(toggles, desc="ablation", unit="run"):
        with toggle():
            tests.append(task.paired(whole, predict(rows), rows.labels))
    trials = [
        Trial(kind, group, name, test, p)
        for (kind, group, name, _), (test, p) in zip(toggles, correct_tests(tests), strict=True)
    ]
    return Ablation(
        rows=len(rows),
        score=TITLES[task.metrics_type.headline_name],
        test_title=task.test_title,
        baseline=task.measure(baseline, rows.labels).headline,
        adapted=task.measure(whole, rows.labels).headline,
        bare=trials[0].test.score,  # without all updates
        trials=trials,
    )


def describe(ablation: Ablation) -> str:
    """Return sentences: the gain of the updates, and the parts that bring most of it."""
    lines = [
        f"The updates of the weights take the {ablation.score} from {ablation.bare:.4f}, which the trained "
        f"head has on the base alone, to {ablation.adapted:.4f} on {ablation.rows:,} rows "
        f"(the base before training: {ablation.baseline:.4f})."
    ]
    for kind, words in ((WITHOUT, "Most is lost without"), (ONLY, "Most is there with only")):
        for group in (PROJECTION, LAYER, MODULE):
            trials = [t for t in ablation.trials if (t.kind, t.group) == (kind, group)]
            shares = {t.title: share for t in trials if (share := ablation.share(t)) is not None}
            if shares:
                best = max(shares, key=lambda title: shares[title])
                lines.append(f"{words} {best}: {shares[best]:.0%} of that gain.")
    return "\n".join(lines)


def _toggles(model: nn.Module, strengths: Strengths) -> Iterator[Named]:
    names = list(adapter_layers(model))
    for part in parts(names):
        yield WITHOUT, part.group, part.name, partial(without, model, part.modules)
        if part.group in (PROJECTION, LAYER):
            others = frozenset(names) - part.modules
            yield ONLY, part.group, part.name, partial(without, model, others)
    for strength in strengths:
        yield STRENGTH, ALL, f"{strength:g}", partial(scaled, model, strength)
