"""The fast path: the same training, sooner. Each lever is a file of its own that says why it may be and what it is worth.

CPU time of a training step with one lever (MiniLM-L12, bf16, 32 rows of the emotion data, one thread, median):

    plain                                                                               236 ms
    layers/dropout.py    cheap dropout masks                        equal in law        202
    model/narrow.py      frozen weights rounded once                equal bit for bit   224
    model/packed.py      no padding, attention written out          equal to rounding   214
                         and the last block for first tokens alone                      203
    all of them                                                                         166

`TrainingConfig(plain=True)`, the flag `--plain`, turns all of them off.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..layers.dropout import cheap_dropouts
from ..model.narrow import narrow_weights
from ..model.packed import can_pack, packed
from ..runtime.precision import Precision


@contextmanager
def fast_path(model: Any, precision: Precision, *, plain: bool = False) -> Iterator[None]:
    """Inside, `classify(model, batch)` is fast; afterwards the model is as it was, but for what was trained.

    Args:
        plain: do nothing.
    """
    with ExitStack() as levers:
        if not plain:
            levers.enter_context(narrow_weights(model, precision))
            if precision.device.type == "cpu":
                levers.enter_context(cheap_dropouts(model))
                if not can_pack(model):
                    warnings.warn(
                        f"{type(model).__name__} trains with padding: it is not known how to pack it", stacklevel=3
                    )
                levers.enter_context(packed(model))
        yield
