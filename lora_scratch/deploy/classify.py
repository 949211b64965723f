"""Classify any number of texts, or pairs of texts, in order and in constant memory: one window at a time."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ..adapter import NF4, base_precision, merge_and_remove
from ..data import Encoded, encode
from ..data.records import Chunk, InputTable, Text
from ..errors import DataError
from ..evaluation import Predictor
from ..fast import onednn
from ..fast.frozen_weights import stores_copies, with_frozen_weights_in
from ..model.sharding import shard_base
from ..runs.sides import check_sides
from ..runs.trained_adapter import TrainedAdapter
from ..runtime.distributed import broadcast, is_main, world_size
from ..runtime.memory import trim_heap
from ..runtime.precision import Precision
from .answers import Answer, finite_answers

WINDOW_ROWS = 2048  # texts of a window: enough to sort by length, few enough for constant memory
WINDOW_CHARACTERS = 2**22  # the same for long texts
KERNELS = 16  # a batch has four shapes, and the next one others: a larger cache only fills up

Pair = tuple[str, str]
Window = list[Text]


@dataclass(frozen=True)
class Classified:
    """A text, perhaps with its second one, and the task's answer: a label or labels, and scores."""

    text: str
    answer: dict[str, Any]
    pair: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that the command predict writes."""
        texts = {"text": self.text} if self.pair is None else {"text": self.text, "pair": self.pair}
        return {**texts, **self.answer}


class Classifier:
    """A saved adapter merged into its base. Use `saved` for nothing else afterwards.

    Args:
        precision: the compute dtype, and the device that the model is moved to.
        calibrated: divide the logits by the temperature that is stored with the adapter.
        plain: use the model's own code, with padding.
        fsdp: shard the base over the processes, and do not merge.

    Raises:
        ConfigError: `calibrated` and no stored temperature.
    """

    def __init__(
        self,
        saved: TrainedAdapter,
        *,
        precision: Precision,
        batch_tokens: int | None = None,
        calibrated: bool = False,
        plain: bool = False,
        fsdp: bool = False,
    ) -> None:
        self.task = saved.task.with_calibration() if calibrated else saved.task
        onednn.limit_kernel_cache(KERNELS)
        if fsdp:
            self.model = shard_base(saved.base.model, precision.device)
        else:
            model = saved.base.model.to(precision.device)
            # four bits can't hold W + ΔW
            merged = model if base_precision(model) == NF4 else merge_and_remove(model)
            self.model = merged.requires_grad_(False)
        self.base, self.max_tokens, self._data = saved.base, saved.max_tokens, saved.provenance.data
        options: Any = {"plain": plain, "batch_tokens": batch_tokens}
        self.predictor = Predictor(self.model, precision, self.base.pad_token_id, **options)
        self._copies = ExitStack()  # kept, since making them takes a tenth of a second
        if not plain and stores_copies(self.model, self.predictor.precision):
            self._copies.enter_context(with_frozen_weights_in(self.model, self.predictor.precision.dtype))

    def __call__(
        self, texts: Iterable[Text], *, rows: int = WINDOW_ROWS, characters: int = WINDOW_CHARACTERS
    ) -> Iterator[Classified | DataError]:
        """Yield the answer to every text, in order, and errors in their places.

        An error stands for a text that came as one, and for one whose logits are not finite. Read at most
        one window ahead. Several processes share the texts of the main process.

        Raises:
            DataError: a single text for an adapter of pairs, or the other way round.
        """
        for window in from_main_process(windows(texts, rows=rows, characters=characters)):
            classified = self._classify([text for text in window if not isinstance(text, DataError)])
            yield from (text if isinstance(text, DataError) else next(classified) for text in window)
            trim_heap()

    def _classify(self, texts: Sequence[str | Pair]) -> Iterator[Classified | DataError]:
        if not texts:
            return
        for are_pairs in {isinstance(text, tuple) for text in texts}:
            check_sides(self._data, pairs=are_pairs)
        encoded = encode_texts(texts, self.base.tokenizer, max_tokens=self.max_tokens)
        answers = finite_answers(self.task, self.predictor.logits(encoded))
        for text, answer in zip(texts, answers, strict=True):
            first, second = (text, None) if isinstance(text, str) else text
            yield answer if isinstance(answer, DataError) else Classified(first, answer, second)


def encode_texts(texts: Sequence[str | Pair], tokenizer: Any, *, max_tokens: int) -> Encoded:
    """Return the token ids of texts without labels, or of pairs. Raises DataError for a mixture."""
    first = [text if isinstance(text, str) else text[0] for text in texts]
    second = [text[1] for text in texts if isinstance(text, tuple)]
    return encode(first, [0] * len(texts), tokenizer, max_tokens=max_tokens, pairs=second or None)


def classify_chunks(
    classify: Classifier, table: InputTable, *, skip_bad_rows: bool
) -> Iterator[tuple[Chunk, list[Answer | DataError]]]:
    """Yield the table's records with their answers, a chunk at a time.

    Raises:
        DataError: the first record that can't be classified, unless `skip_bad_rows`.
    """
    waiting: deque[Chunk] = deque()
    answers: list[Answer | DataError] = []
    for result in classify(_texts(table.chunks(), waiting, skip_bad_rows=skip_bad_rows)):
        chunk = waiting[0]
        if isinstance(result, DataError) and not skip_bad_rows:
            place = chunk.places[len(answers)]
            raise DataError(result.found, where=place, expected=result.expected, remedy=result.remedy)
        answers.append(result if isinstance(result, DataError) else result.answer)
        if len(answers) == len(chunk.texts):
            yield waiting.popleft(), answers
            answers = []


def _texts(chunks: Iterable[Chunk], waiting: deque[Chunk], *, skip_bad_rows: bool) -> Iterator[Text]:
    """Yield the texts of all chunks, and put every chunk in the queue before its texts."""
    for chunk in chunks:
        waiting.append(chunk)
        for text in chunk.texts:
            if isinstance(text, DataError) and not skip_bad_rows:
                raise text
            yield text


def from_main_process(windows: Iterator[Window]) -> Iterator[Window]:
    """Yield the main process's windows in all processes; in the others without the errors."""
    if world_size() == 1:
        yield from windows
        return
    while True:
        window = next(windows, None) if is_main() else None
        texts = None if window is None else [text for text in window if not isinstance(text, DataError)]
        texts = json.loads(broadcast(json.dumps(texts).encode()))
        if texts is None:
            return
        yield [tuple(text) if isinstance(text, list) else text for text in texts] if window is None else window


def windows(texts: Iterable[Text], *, rows: int, characters: int) -> Iterator[Window]:
    """Yield the texts in lists, each of which ends when it reaches `rows` or `characters`."""
    window: Window = []
    length = 0
    for text in texts:
        window.append(text)
        length += 0 if isinstance(text, DataError) else sum(map(len, text))
        if len(window) == rows or length >= characters:
            yield window
            window, length = [], 0
    if window:
        yield window
