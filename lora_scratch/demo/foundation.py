"""The pretrained model of the demo: a small DistilBERT tuned on two-class sentiment, built on first use and kept.

It stands where `distilbert-base-uncased-finetuned-sst-2-english` stands in the real experiment. Half of its texts end in
"in a word: [MASK]." and ask for the word that names the feeling. As in masked-language pretraining, that keeps the words
apart which two classes alone would throw together; nothing here tells which words make one emotion.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from ..data.batches import Batch, collate, plan_batches
from ..data.encode import encode
from ..runtime.atomic import new_folder, write_json
from ..runtime.seeds import named_generator, named_seed
from .corpus import SENTIMENT_OF, sentiment_statements
from .tokenizer import MAX_TOKENS, demo_tokenizer
from .words import RECALL, SENTIMENTS

VERSION = 1  # a change to the corpus, the tokenizer or the recipe below makes another model: count up
STEPS = 1200
BATCH_SIZE = 32
ROWS = 19200
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 100
SEED = 0
POSITION_BASE, POSITION_SCALE = 50.0, 0.15  # found by trial: wavelengths of 6 to 300 tokens
STAMP = "foundation.json"
WRITERS = ("transformers", "tokenizers", "safetensors")  # each writes files that an older one of itself may not read


def foundation_folder(*, progress: bool = True, steps: int = STEPS) -> Path:
    """The folder of the foundation model, in transformers' own files; built first where it is absent or can't be used.

    It stands in `$XDG_CACHE_HOME/lora-scratch`, by default `~/.cache/lora-scratch`.

    Args:
        progress: show a bar while building.
        steps: optimizer steps of the build; fewer make a worse model, in a folder of its own.
    """
    folder = cache_root() / (f"demo-{VERSION}" if steps == STEPS else f"demo-{VERSION}-{steps}-steps")
    if not is_usable(folder):
        with _one_thread():
            model = build_foundation(steps=steps, progress=progress)
        with new_folder(folder) as place, _no_shard_bar():
            model.save_pretrained(place)
            demo_tokenizer().save_pretrained(place)
            write_json(place / STAMP, _stamp(place))
    return folder


def cache_root() -> Path:
    """Where built models are kept. The XDG base directory specification says to ignore a relative XDG_CACHE_HOME."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".cache") / "lora-scratch"


def is_usable(folder: Path) -> bool:
    """Whether the foundation model in `folder` is whole and the installed libraries can read it.

    Every file still has the digest that was written down when it was built, and no file was written by a library newer
    than the one installed: newer releases read what older ones wrote, not the other way round.
    """
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        return _is_whole(folder, stamp["sha256"]) and _is_readable(stamp["written_by"])
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return False


def _is_whole(folder: Path, digests: dict[str, str]) -> bool:
    return bool(digests) and all(_digest(folder / name) == digest for name, digest in digests.items())


def _is_readable(written_by: dict[str, str]) -> bool:
    return all(_release(version(name)) >= _release(written_by[name]) for name in WRITERS)


def _release(number: str) -> list[int]:
    """The numbers of a version, without what follows them: [5, 23, 0] for "5.23.0.dev1+cpu"."""
    return [int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", number)[0])]


def _stamp(folder: Path) -> dict[str, dict[str, str]]:
    """What `is_usable` reads: the digest of every file, and the versions of the libraries that wrote them."""
    return {
        "written_by": {name: version(name) for name in WRITERS},
        "sha256": {path.name: _digest(path) for path in sorted(folder.iterdir())},
    }


def build_foundation(*, steps: int = STEPS, progress: bool = True) -> transformers.DistilBertForSequenceClassification:
    """A small DistilBERT with the head negative/positive, trained for `steps` steps on sentiment and recall."""
    model = _initial_model().train()
    tokenizer = demo_tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, (steps - step) / max(1, steps - WARMUP_STEPS))
    )
    bar = tqdm(_batches(tokenizer, steps), total=steps, desc="foundation model", unit="step", disable=not progress)
    for batch, words in bar:
        loss = _loss(model, batch, words, mask_token_id=int(tokenizer.mask_token_id))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return model.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from a second thread, and on a busy machine wait long for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _no_shard_bar() -> Iterator[None]:
    """transformers shows a bar for writing one small file."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _initial_model() -> transformers.DistilBertForSequenceClassification:
    """Random weights, but for the positions: sines whose wavelengths span a sentence, so that near words look alike.

    Learnt from nothing, a sense of "in the same clause" takes more steps than all the rest.
    Source: Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762, section 3.5 (there with base 10000).
    """
    config = transformers.DistilBertConfig(
        vocab_size=len(demo_tokenizer()),
        dim=64,
        hidden_dim=256,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=MAX_TOKENS,
        initializer_range=0.1,  # about 1/sqrt(dim); DistilBERT's 0.02 is made for dim 768
        dropout=0.0,  # no text is seen more than twice
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
        pad_token_id=0,
        id2label=dict(enumerate(SENTIMENTS)),
        label2id={name: index for index, name in enumerate(SENTIMENTS)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(named_seed(SEED, "foundation"))
        model = transformers.DistilBertForSequenceClassification(config)
    waves = torch.arange(MAX_TOKENS)[:, None] / POSITION_BASE ** (torch.arange(0, 64, 2) / 64)  # (positions, dim / 2)
    with torch.no_grad():
        positions = model.distilbert.embeddings.position_embeddings.weight  # (positions, dim)
        positions.copy_(POSITION_SCALE * torch.stack([waves.sin(), waves.cos()], dim=-1).flatten(1))
    return model


def _batches(tokenizer: Any, steps: int) -> Iterator[tuple[Batch, Tensor]]:
    """`steps` batches, and for each row the token it has to recall, or -100 where nothing is asked."""
    statements = sentiment_statements(min(ROWS, steps * BATCH_SIZE))
    labels = [SENTIMENTS.index(SENTIMENT_OF[row.word]) for row in statements]
    answers = torch.tensor([tokenizer.convert_tokens_to_ids(row.word) for row in statements])  # (rows,)
    left = steps
    for epoch in range(math.ceil(steps * BATCH_SIZE / len(statements))):
        asked = torch.rand(len(statements), generator=named_generator(SEED, f"recall in epoch {epoch}")) < 0.5  # (rows,)
        texts = [row.text + RECALL if ask else row.text for row, ask in zip(statements, asked, strict=True)]
        encoded = encode(texts, labels, tokenizer, max_tokens=MAX_TOKENS)
        for rows in plan_batches(encoded.lengths, batch_size=BATCH_SIZE, seed=SEED, epoch=epoch)[:left]:
            batch = collate(encoded, rows, pad_token_id=int(tokenizer.pad_token_id))
            yield batch, answers.where(asked, torch.tensor(-100))[batch.rows]
            left -= 1


def _loss(
    model: transformers.DistilBertForSequenceClassification, batch: Batch, words: Tensor, *, mask_token_id: int
) -> Tensor:
    """Cross entropy of the sentiment, plus that of the recalled word, read off at [MASK] by the word embeddings."""
    hidden = model.distilbert(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    pooled = F.relu(model.pre_classifier(hidden[:, 0]))  # (B, dim)
    loss = F.cross_entropy(model.classifier(pooled), batch.labels)
    masked = batch.input_ids == mask_token_id  # (B, T)
    if masked.any():
        logits = hidden[masked] @ model.distilbert.embeddings.word_embeddings.weight.T  # (masked, vocabulary)
        loss = loss + F.cross_entropy(logits, words[masked.any(1)])
    return loss


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
