"""Python's search for garbage in cycles: put off while a command starts, left out at its end.

A command imports 3,000 modules, and their 400,000 objects live to its end. Python searches them for
cycles again and again during the imports, and once more at the exit. Without these searches
`lora-scratch predict ADAPTER "text"` takes 3.1 s instead of 4.6, on two cores of an AMD EPYC.

Only commands do this, since they own their process: `freeze` would hide a caller's garbage for good.

Source: Python's manual, the module gc.
"""

from __future__ import annotations

import atexit
import gc

OBJECTS = 500_000  # new ones between two searches: more than a start makes

_usual: list[tuple[int, int, int]] = []  # the thresholds, while searches are put off


def put_off() -> None:
    """Search rarely until `resume`, and not at the exit of the process."""
    if not _usual:
        _usual.append(gc.get_threshold())
        gc.set_threshold(OBJECTS, *_usual[0][1:])
        atexit.register(gc.freeze)


def resume() -> None:
    """Search as often as before `put_off`, and never among what exists now. Do nothing without it."""
    if _usual:
        gc.freeze()
        gc.set_threshold(*_usual.pop())
