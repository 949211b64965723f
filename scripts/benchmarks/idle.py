"""Looks whether the machine is free. A timing that shares it with other work says little."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")  # Linux
WATCHED_S = 1.0
IDLE_SHARE = 0.9  # of all cores; the system's own work takes the rest


@dataclass(frozen=True)
class Idleness:
    """How busy the machine was while this process slept.

    Args:
        idle_share: the unused share of all cores' time; None where the system does not tell.
        load: the load average of the last minute. It still remembers the measurement before, so
            it decides only where the share is None.
    """

    idle_share: float | None
    load: float

    @property
    def idle(self) -> bool:
        """Whether a timing that starts now has the machine to itself."""
        if self.idle_share is None:
            return self.load < (os.cpu_count() or 1) * (1 - IDLE_SHARE)
        return self.idle_share >= IDLE_SHARE


def look(seconds: float = WATCHED_S) -> Idleness:
    """Sleep for a moment and measure how busy the machine is."""
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    all_ticks = after[1] - before[1] if before and after else 0
    share = (after[0] - before[0]) / all_ticks if before and after and all_ticks else None
    return Idleness(share, os.getloadavg()[0])


def _ticks() -> tuple[int, int] | None:
    """Return the (idle, all) clock ticks of all cores since boot.

    Source: proc(5), /proc/stat: idle is the fourth number, iowait the fifth.
    """
    with suppress(OSError, ValueError):
        ticks = [int(number) for number in STAT.read_text().splitlines()[0].split()[1:9]]
        return ticks[3] + ticks[4], sum(ticks)
    return None
