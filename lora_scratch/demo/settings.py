"""What the demo is run with unless a flag says otherwise."""

from __future__ import annotations

DEMO_SETTINGS: dict[str, int | float | str] = {
    "rank": 8,
    "alpha": 16.0,
    "dropout": 0.1,
    "epochs": 3,
    "learning_rate": 5e-3,  # a small model takes, and needs, more than the 1e-3 of a real encoder
    "batch_size": 32,
    "max_tokens": 128,
    "precision": "fp32",  # matrices this small gain nothing from bf16: the casts cost more than they save
    "threads": 1,  # nor does a second thread: waiting for each other takes longer than the products themselves
    "seed": 1,  # an untrained head on two-class features scores 0.10 to 0.33 by the luck of its draw; this one 0.18
}
