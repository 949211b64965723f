"""The demo's defaults for flags."""

from __future__ import annotations

DEMO_SETTINGS: dict[str, int | float | str] = {
    "rank": 8,
    "alpha": 16.0,
    "dropout": 0.1,
    "epochs": 3,
    "learning_rate": 5e-3,  # a small model needs more than the 1e-3 of a real encoder
    "batch_size": 32,
    "max_tokens": 128,
    "precision": "fp32",  # for small matrices the casts of bf16 cost more than they save
    "threads": 1,  # and threads wait longer for each other than they compute
    "seed": 1,  # the untrained head scores 0.18; other seeds 0.10 to 0.33
}
