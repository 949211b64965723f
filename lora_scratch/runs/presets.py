"""Named jobs: the settings of a whole run under one word."""

from __future__ import annotations

from typing import Any

from ..demo.settings import DEMO_SETTINGS

PRESETS: dict[str, dict[str, Any]] = {
    "demo": {"model": "demo", "dataset": "demo", "linear_probe": True, **DEMO_SETTINGS},
    "emotion": {
        "model": "distilbert-base-uncased-finetuned-sst-2-english",
        "dataset": "dair-ai/emotion",
        "targets": ["q_lin", "k_lin", "v_lin"],
        "rank": 8,
        "alpha": 16.0,
        "dropout": 0.1,
        "epochs": 3,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "max_tokens": 128,
    },
    # for --model and --dataset of one's own: the best recipe found on MiniLM and emotion, docs/results/study.md
    "encoder": {
        "targets": ["all-linear"],
        "rank": 4,
        "alpha": 8.0,
        "dropout": 0.1,
        "epochs": 3,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "head_start": "probe",
    },
}
