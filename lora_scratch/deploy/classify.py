"""Classify any number of texts, in order and in constant memory: one window at a time."""

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

WINDOW_ROWS = 2048  # texts of a window: enough to sort by length, few enough for constant memory
WINDOW_CHARACTERS = 2**22  # the same for long texts
KERNELS = 16  # a batch has four shapes, and the next one others: a larger cache only fills up

Text = str | DataError  # an error in place of a text that could not be read
Window = list[Text]


@dataclass(frozen=True)
class Classified:
    """A text, its label, and the probability of every label."""

    text: str
    label: str
    scores: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that the command predict writes."""
        scores = {label: round(score, 6) for label, score in self.scores.items()}
        best = {"text": self.text, "label": self.label, "score": scores[self.label]}
        return {**best, "scores": scores}


class Classifier:
    """A saved adapter merged into its base. Use `saved` for nothing else afterwards.

    Args:
        precision: the compute dtype, and the device that the model is moved to.
        plain: use the model's own code, with padding.
        fsdp: shard the base over the processes, and do not merge.
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
            # four bits can't hold W + ΔW
            merged = model if base_precision(model) == NF4 else merge_and_remove(model)
            self.model = merged.requires_grad_(False)
        self.base, self.labels, self.max_tokens = saved.base, saved.labels, saved.max_tokens
        options: Any = {"plain": plain, "batch_tokens": batch_tokens}
        self.predictor = Predictor(self.model, precision, self.base.pad_token_id, **options)
        self._copies = ExitStack()  # kept, since making them takes a tenth of a second
        if not plain and stores_copies(self.model, precision):
            self._copies.enter_context(with_frozen_weights_in(self.model, precision.dtype))

    def __call__(
        self, texts: Iterable[Text], *, rows: int = WINDOW_ROWS, characters: int = WINDOW_CHARACTERS
    ) -> Iterator[Classified | DataError]:
        """Yield the label of every text, in order, and errors in their places.

        Read at most one window ahead. Several processes share the texts of the main process.
        """
        for window in from_main_process(windows(texts, rows=rows, characters=characters)):
            classified = self._classify([text for text in window if isinstance(text, str)])
            yield from (next(classified) if isinstance(text, str) else text for text in window)
            trim_heap()

    def _classify(self, texts: Sequence[str]) -> Iterator[Classified]:
        if not texts:
            return
        no_labels = [0] * len(texts)
        encoded = encode(texts, no_labels, self.base.tokenizer, max_tokens=self.max_tokens)
        logits = self.predictor.logits(encoded)
        best = logits.argmax(-1).tolist()
        for text, index, scores in zip(texts, best, logits.softmax(-1).tolist(), strict=True):
            yield Classified(text, self.labels[index], dict(zip(self.labels, scores, strict=True)))


def from_main_process(windows: Iterator[Window]) -> Iterator[Window]:
    """Yield the main process's windows in all processes; in the others without the errors."""
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


def windows(texts: Iterable[Text], *, rows: int, characters: int) -> Iterator[Window]:
    """Yield the texts in lists, each of which ends when it reaches `rows` or `characters`."""
    window: Window = []
    length = 0
    for text in texts:
        window.append(text)
        length += len(text) if isinstance(text, str) else 0
        if len(window) == rows or length >= characters:
            yield window
            window, length = [], 0
    if window:
        yield window
