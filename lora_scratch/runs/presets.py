"""Named jobs and recipes: the settings of a whole run under one word."""

from __future__ import annotations

from typing import Any

from ..demo.settings import DEMO_SETTINGS

BASIC = "basic"
RECOMMENDED = "encoder"  # what the command train uses where no preset is named

# The library's own defaults, as PEFT's. Every preset names all of these, so that none depends on another.
_OWN: dict[str, Any] = {
    "targets": None,
    "rank": 8,
    "alpha": 16.0,
    "dropout": 0.1,
    "epochs": 3,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "schedule": "linear",
    "head_start": "loaded",
}
PRESETS: dict[str, dict[str, Any]] = {
    "demo": {**_OWN, "model": "demo", "dataset": "demo", "linear_probe": True, **DEMO_SETTINGS},
    "emotion": {
        **_OWN,
        "model": "distilbert-base-uncased-finetuned-sst-2-english",
        "dataset": "dair-ai/emotion",
        "targets": ["q_lin", "k_lin", "v_lin"],
        "max_tokens": 128,
    },
    # for --model and --dataset of one's own: the best recipe found on MiniLM and emotion, docs/results/study.md
    RECOMMENDED: {
        **_OWN,
        "targets": ["all-linear"],
        "rank": 4,
        "alpha": 8.0,
        "schedule": "cosine",
        "head_start": "auto",
    },
    BASIC: _OWN,
}
