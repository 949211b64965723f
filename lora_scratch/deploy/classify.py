"""Texts of any number to labels, in their order, in flat memory: a window of them at a time, sorted by length inside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ..adapter import NF4, base_precision, merge_and_remove
from ..data import encode
from ..errors import DataError
from ..evaluation import Predictor
from ..fast import onednn
from ..fast.frozen_weights import stores_copies, with_frozen_weights_in
from ..model.sharding import shard_base
from ..runs.trained_adapter import TrainedAdapter
from ..runtime.distributed import broadcast, is_main, world_size
from ..runtime.memory import trim_heap
from ..runtime.precision import Precision

WINDOW_ROWS = 2048  # texts held at a time: enough to sort by length, few enough that memory stays flat
WINDOW_CHARACTERS = 2**22  # the same for texts that are long
KERNELS = 16  # a batch has four shapes and the next one others: more are memory that fills up over thousands of texts


@dataclass(frozen=True)
class Classified:
    """A text, its label, and the probability of every label."""

    text: str
    label: str
    scores: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Return what the command predict writes for the text."""
        scores = {label: round(score, 6) for label, score in self.scores.items()}
        return {"text": self.text, "label": self.label, "score": scores[self.label], "scores": scores}


class Classifier:
    """A saved adapter folded into its base, once for all texts; `saved` can't be used for anything else afterwards.

    Args:
        precision: the compute dtype, and the device, which the model is moved to.
        plain: with padding, as the model's own code has it.
        fsdp: share the base out over the processes; the adapter stays beside it then.
    """

    def __init__(
        self,
        saved: TrainedAdapter,
        *,
        precision: Precision,
        batch_tokens: int | None = None,
        plain: bool = False,
        fsdp: bool = False,
    ) -> None:
        onednn.limit_kernel_cache(KERNELS)
        if fsdp:
            self.model = shard_base(saved.base.model, precision.device)
        else:
            model = saved.base.model.to(precision.device)
            # four bits can't hold W + ΔW: there the adapter stays beside its base
            self.model = (model if base_precision(model) == NF4 else merge_and_remove(model)).requires_grad_(False)
        self.base, self.labels, self.max_tokens = saved.base, saved.labels, saved.max_tokens
        self.precision, self.batch_tokens, self.plain = precision, batch_tokens, plain
        self._copies = ExitStack()  # made by the first call and kept: each time they would take a tenth of a second
        if not plain and stores_copies(self.model, precision):
            self._copies.enter_context(with_frozen_weights_in(self.model, precision.dtype))

    def __call__(
        self, texts: Iterable[str | DataError], *, rows: int = WINDOW_ROWS, characters: int = WINDOW_CHARACTERS
    ) -> Iterator[Classified | DataError]:
        """Every text with its label, in the order of `texts`, of which no more than a window is read ahead.

        A text that could not be read comes as the error that it is, and keeps its place. Several processes share each
        window: they classify the main one's texts, and the others' are not looked at.
        """
        for window in from_main_process(windows(texts, rows=rows, characters=characters)):
            found = self._classify([text for text in window if isinstance(text, str)])
            yield from (next(found) if isinstance(text, str) else text for text in window)
            trim_heap()

    def _classify(self, texts: Sequence[str]) -> Iterator[Classified]:
        if not texts:
            return
        encoded = encode(texts, [0] * len(texts), self.base.tokenizer, max_tokens=self.max_tokens)
        logits = Predictor(
            self.model, self.precision, self.base.pad_token_id, plain=self.plain, batch_tokens=self.batch_tokens
        ).logits(encoded)
        best = logits.argmax(-1).tolist()
        for text, index, scores in zip(texts, best, logits.softmax(-1).tolist(), strict=True):
            yield Classified(text, self.labels[index], dict(zip(self.labels, scores, strict=True)))


def from_main_process(windows: Iterator[list[str | DataError]]) -> Iterator[list[str | DataError]]:
    """The main process's windows, in all processes: no other has to see its file or its standard input.

    The others get the texts alone, without the errors in their places.
    """
    if world_size() == 1:
        yield from windows
        return
    while True:
        window = next(windows, None) if is_main() else None
        texts = None if window is None else [text for text in window if isinstance(text, str)]
        texts = json.loads(broadcast(json.dumps(texts).encode()))
        if texts is None:
            return
        yield texts if window is None else window


def windows(texts: Iterable[str | DataError], *, rows: int, characters: int) -> Iterator[list[str | DataError]]:
    """The texts in order, in lists of up to `rows`; a list also ends with the text that brings it to `characters`."""
    window: list[str | DataError] = []
    held = 0
    for text in texts:
        window.append(text)
        held += len(text) if isinstance(text, str) else 0
        if len(window) == rows or held >= characters:
            yield window
            window, held = [], 0
    if window:
        yield window
