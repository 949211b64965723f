"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

SCHEDULES = ("linear", "cosine")


def learning_rate_factor(step: int, *, total_steps: int, warmup_steps: int, schedule: str) -> float:
    """Return the factor on the peak learning rate at `step`, from 0.

    It rises as (step + 1) / (warmup_steps + 1), so that the first step moves the weights. Then it
    falls as 1 - p (linear) or (1 + cos πp) / 2 (cosine), where p is the part of the rest done.

    Source: Loshchilov and Hutter 2017, SGDR, arXiv:1608.03983, section 3 (cosine).
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return 1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
