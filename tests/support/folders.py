"""Folders that tests and users alike have: a saved base model, and a data set in `text;label` files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from support.tiny import tiny_distilbert

from lora_scratch.demo import demo_splits
from lora_scratch.demo.tokenizer import demo_tokenizer


def save_base(folder: Path, *, labels: tuple[str, ...], seed: int = 0) -> Path:
    """A tiny DistilBERT with the demo's tokenizer, as `save_pretrained` leaves it."""
    tokenizer = demo_tokenizer()
    model = tiny_distilbert(labels=len(labels), seed=seed, vocabulary=len(tokenizer))
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: index for index, label in enumerate(labels)}
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


cached_splits = cache(demo_splits)  # a third of a second each time


def save_rows(folder: Path, *, train: int = 64, held_out: int = 24) -> Path:
    """Some rows of the demo's corpus as train, validation and test files."""
    splits = cached_splits()
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("validation", held_out), ("test", held_out)):
        rows = [f"{row.text};{splits.labels[row.label]}" for row in getattr(splits, name)[:count]]
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return folder
