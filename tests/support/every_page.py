"""One page of every kind that the scripts write, from figures small enough to stand here."""

from __future__ import annotations

from functools import cache

from support.report_pages import EVIL, events, module, report

from lora_scratch.evaluation import Table
from lora_scratch.reporting import Page, anatomy_page, run_page
from lora_scratch.study.ablation_page import ablation_page
from lora_scratch.study.comparison_page import comparison_page
from lora_scratch.study.section7_page import section7_page

MODULES = [module(f"bert.encoder.layer.{i}.attention.self.{kind}") for i in range(3) for kind in ("query", "key", "value")]


@cache
def pages() -> dict[str, Page]:
    """The page of each kind by its name."""
    return {
        "run": run_page(report(anatomy=MODULES), events()),
        "evaluation": run_page(report()),
        "comparison": _comparison(),
        "anatomy": anatomy_page(MODULES, title=f"Anatomy of {EVIL}"),
        "ablation": _ablation(),
        "section 7": section7_page(_replay(), source="python scripts/study/section7.py"),
    }


def _comparison() -> Page:
    rungs = ("untrained head", "linear probe", "LoRA and head", "full fine-tuning")
    runs = [
        {"rung": rung, "seed": seed, "rows": rows, "accuracy": 0.6 + 0.1 * i + 0.01 * seed + rows / 1e5, "n": 50}
        for rows in (250, 4000)
        for i, rung in enumerate(rungs)
        for seed in range(3)
    ]
    duels = [{**run, "against": "linear probe", "word": "better", "p_holm": 0.001} for run in runs]
    header = ["rung", "seeds", "accuracy", "macro-F1", "parameters", "adapter bytes", "training seconds"]
    cells = ["3", "0.9123 ± 0.0034", "0.8912 ± 0.0041", "124,416", "497,664", "123.4"]
    table = Table(header, [[rung, *cells] for rung in rungs])
    return comparison_page(runs, table, duels=duels, tests=table)


def _ablation() -> Page:
    parts = [("module", each.name) for each in MODULES] + [("projection", "query"), ("layer", "0")]
    named = [("without", *part) for part in parts] + [("only", *part) for part in parts[-2:]]
    named += [("strength", "all", strength) for strength in ("0", "0.5", "1", "1.5")]
    trials = [
        {"what": what, "group": group, "name": name, "found": {"accuracy": 0.8, "change": -0.02}, "p_holm": 1.0}
        for what, group, name in named
    ]
    header = ["trial", "accuracy", "change", "of the gain", "fixed", "broken", "p", "p (Holm)", "verdict"]
    cells = ["0.8000", "-0.0200", "100.0%", "52", "1073", "7.9e-249", "3.9e-247", "worse"]
    table = Table(header, [[" ".join(each), *cells] for each in named])
    return ablation_page({"trials": trials}, title="Ablation", answer="No part carries it alone.", table=table)


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
        {"kinds": kinds, "rank": rank, "parameters": 64, "accuracy": [0.7, 0.8], "n": 50}
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
