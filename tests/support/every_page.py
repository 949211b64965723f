"""One page of every kind that the scripts write, from figures small enough to stand here."""

from __future__ import annotations

from functools import cache

from support.report_pages import EVIL, a_number, events, module, report, run_result, several_labels

from lora_scratch.evaluation import Table
from lora_scratch.reporting import Page, anatomy_page, run_page
from lora_scratch.study.ablation import Ablation, Trial
from lora_scratch.study.ablation_page import ablation_page
from lora_scratch.study.comparison import PairedTest
from lora_scratch.study.comparison_page import comparison_page
from lora_scratch.study.section7_page import section7_page
from lora_scratch.tasks import Paired

MODULES = [module(f"bert.encoder.layer.{i}.attention.self.{kind}") for i in range(3) for kind in ("query", "key", "value")]


@cache
def pages() -> dict[str, Page]:
    """The page of each kind by its name."""
    return {
        "run": run_page(report(anatomy=MODULES), events()),
        "evaluation": run_page(report()),
        "several labels": run_page(several_labels()),
        "number": run_page(a_number()),
        "comparison": _comparison(),
        "anatomy": anatomy_page(MODULES, title=f"Anatomy of {EVIL}"),
        "ablation": _ablation(),
        "section 7": section7_page(_replay(), source="python scripts/study/section7.py"),
    }


def _comparison() -> Page:
    methods = ("untrained head", "linear probe", "LoRA and head", "full fine-tuning")
    results = [
        run_result(method, seed, 0.6 + 0.1 * i + 0.01 * seed + rows / 1e5, rows=rows)
        for rows in (250, 4000)
        for i, method in enumerate(methods)
        for seed in range(3)
    ]
    better = Paired(0.9, 0.1, 52, 1073, 7.9e-249, 0.1, "better")
    tests = [PairedTest(result.run, "linear probe", better, 0.001) for result in results]
    return comparison_page(results, tests)


def _ablation() -> Page:
    parts = [("module", each.name) for each in MODULES] + [("projection", "query"), ("layer", "0")]
    named = [("without", *part) for part in parts] + [("only", *part) for part in parts[-2:]]
    named += [("strength", "all", strength) for strength in ("0", "0.5", "1", "1.5")]
    test = Paired(0.8, -0.02, 52, 1073, 7.9e-249, -0.02, "worse")
    ablation = Ablation(
        50, "accuracy", "McNemar's exact test", 0.2, 0.9, 0.5, [Trial(*name, test, 3.9e-247) for name in named]
    )
    header = ["trial", "accuracy", "change", "of the gain", "fixed", "broken", "p", "p (Holm)", "verdict"]
    cells = ["0.8000", "-0.0200", "100.0%", "52", "1073", "7.9e-249", "3.9e-247", "worse"]
    table = Table(header, [[" ".join(name), *cells] for name in named])
    return ablation_page(ablation, title="Ablation", table=table)


def _replay() -> dict[str, object]:
    """Section 7's figures, two ranks and two layers."""
    corners = {name: {"mean": 0.3, "random": 0.1} for name in ("1,1", "1,8", "2,8", "2,2")}
    spaces = [
        {"of": side, "kind": kind, "corners": corners, "grid": [[0.1 * (i + 1)] * 8 for i in range(2)]}
        for side in ("A", "update")
        for kind in ("q", "v")
    ]
    names = ("in_update", "in_weight", "in_random", "weight_norm", "update_norm", "factor")
    amplified = [
        {"kind": kind, "layer": layer, "rank": rank, **dict.fromkeys(names, 1.5)}
        for kind in ("q", "v")
        for rank in (2, 8)
        for layer in (0, 1)
    ]
    trained = [
        {"kinds": kinds, "rank": rank, "parameters": 64, "accuracy": [0.7, 0.8], "n": 50, "score": "accuracy"}
        for kinds in ("q", "qv")
        for rank in (2, 8)
    ]
    return {
        "budget": trained,
        "ranks": trained,
        "between_ranks": spaces,
        "between_seeds": spaces,
        "random": [[0.1] * 8] * 2,
        "amplification": amplified,
        "layer": 1,
    }
