"""The demo's pretrained model: a small DistilBERT trained on sentiment, built on first use.

It replaces `distilbert-base-uncased-finetuned-sst-2-english`. Half of its texts end in
"in a word: [MASK]." and the model also learns the word that names the feeling. As masked-language
pretraining does, this keeps words of the same sentiment apart. Nothing tells it the emotions.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from ..data.batches import IGNORED, Batch, collate, plan_batches
from ..data.encode import encode
from ..errors import ModelError
from ..runtime.atomic import new_folder, write_json
from ..runtime.lock import one_builder
from ..runtime.seeds import named_generator, named_seed
from .corpus import SENTIMENT_OF, sentiment_statements
from .tokenizer import MAX_TOKENS, demo_tokenizer
from .words import RECALL, SENTIMENTS

if TYPE_CHECKING:
    from transformers import DistilBertForSequenceClassification as Model

VERSION = 1  # increase it with every change to the corpus, the tokenizer or the recipe below
STEPS = 1200
BATCH_SIZE = 32
ROWS = 19200
PEAK_LEARNING_RATE, BETAS = 3e-3, (0.9, 0.98)
WARMUP_STEPS = 100
SEED = 0
POSITION_BASE, POSITION_SCALE = 50.0, 0.15  # by trial: wavelengths of 6 to 300 tokens
STAMP = "foundation.json"
FILE_BYTES = 2**20  # of the model and its tokenizer, with some room: measured 0.56 MB
CHOOSE_ANOTHER = "set XDG_CACHE_HOME to a folder that can be written to"
WRITERS = ("transformers", "tokenizers", "safetensors")  # older versions may not read their files


def foundation_folder(*, progress: bool = True, steps: int = STEPS) -> Path:
    """Return the folder of the foundation model. Build it if it is absent or can't be used.

    It is in `$XDG_CACHE_HOME/lora-scratch`, by default `~/.cache/lora-scratch`.

    Args:
        progress: show a bar while building.
        steps: optimizer steps; fewer make a worse model, in another folder.
    """
    name = f"demo-{VERSION}" if steps == STEPS else f"demo-{VERSION}-{steps}-steps"
    folder = cache_root() / name
    if is_usable(folder):
        return folder
    with one_builder(folder, remedy=CHOOSE_ANOTHER):  # the others wait, and then find the model
        if not is_usable(folder):
            _check_space(folder.parent)
            _write_foundation(folder, steps=steps, progress=progress)
    return folder


def _check_space(cache: Path) -> None:
    """Check before the build, which takes a while, that its files have room. Raise ModelError otherwise."""
    free = shutil.disk_usage(cache).free
    if free < FILE_BYTES:
        fault, expected = f"{free:,} bytes are free", f"{FILE_BYTES:,} for the demo's model"
        raise ModelError(fault, where=str(cache), expected=expected, remedy=f"free some space, or {CHOOSE_ANOTHER}")


def _write_foundation(folder: Path, *, steps: int, progress: bool) -> None:
    with _one_thread():
        model = build_foundation(steps=steps, progress=progress)
    with new_folder(folder) as new, _no_shard_bar():
        model.save_pretrained(new)
        demo_tokenizer().save_pretrained(new)
        write_json(new / STAMP, _stamp(new))


def cache_root() -> Path:
    """Return the cache folder. A relative XDG_CACHE_HOME is ignored (XDG base directories).

    Raises:
        ModelError: the user has no home folder, and no XDG_CACHE_HOME.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (home if home.is_absolute() else Path.home() / ".cache") / "lora-scratch"
    except RuntimeError as error:
        raise ModelError("there is no home folder to keep the demo's model in", remedy=CHOOSE_ANOTHER) from error


def is_usable(folder: Path) -> bool:
    """Return whether the model in `folder` is complete and the installed libraries can read it.

    Every file must have the digest from when it was built, and no library may be older than then.
    """
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        digests, writers = stamp["sha256"], stamp["written_by"]
        whole = all(_digest(folder / name) == digest for name, digest in digests.items())
        readable = all(_release(version(name)) >= _release(writers[name]) for name in WRITERS)
        return bool(digests) and whole and readable
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return False


def _release(number: str) -> list[int]:
    """Return the numbers of a version: [5, 23, 0] for "5.23.0.dev1+cpu"."""
    return [int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", number)[0])]


def _stamp(folder: Path) -> dict[str, dict[str, str]]:
    """Return the digest of every file, and the versions of the libraries, for `is_usable`."""
    return {
        "written_by": {name: version(name) for name in WRITERS},
        "sha256": {path.name: _digest(path) for path in sorted(folder.iterdir())},
    }


def build_foundation(*, steps: int = STEPS, progress: bool = True) -> Model:
    """Train a small DistilBERT on sentiment and on recalling the word. Return it."""
    model = _initial_model().train()
    tokenizer = demo_tokenizer()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_LEARNING_RATE, betas=BETAS, fused=True)
    falling = max(1, steps - WARMUP_STEPS)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, (steps - step) / falling)
    )
    options = {"desc": "foundation model", "unit": "step", "disable": not progress}
    bar = tqdm(_batches(tokenizer, steps), total=steps, **options)
    for batch, words in bar:
        loss = _loss(model, batch, words, mask_token_id=int(tokenizer.mask_token_id))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return model.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: small matrices gain nothing from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _no_shard_bar() -> Iterator[None]:
    """Hide the progress bar of transformers for writing one small file."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _initial_model() -> Model:
    """Return a model with random weights and sinusoidal position embeddings.

    From random positions, learning "in the same clause" takes more steps than all the rest.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5 (there with base 10000).
    """
    config = transformers.DistilBertConfig(
        vocab_size=len(demo_tokenizer()),
        dim=64,
        hidden_dim=256,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=MAX_TOKENS,
        initializer_range=0.1,  # about 1/sqrt(dim); DistilBERT's 0.02 is for dim 768
        dropout=0.0,  # no text is used more than twice
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
        pad_token_id=0,
        id2label=dict(enumerate(SENTIMENTS)),
        label2id={name: index for index, name in enumerate(SENTIMENTS)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(named_seed(SEED, "foundation"))
        model = transformers.DistilBertForSequenceClassification(config)
    wavelengths = POSITION_BASE ** (torch.arange(0, 64, 2) / 64)  # (dim / 2,)
    angles = torch.arange(MAX_TOKENS)[:, None] / wavelengths  # (positions, dim / 2)
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)  # (positions, dim)
    with torch.no_grad():
        model.distilbert.embeddings.position_embeddings.weight.copy_(POSITION_SCALE * waves)
    return model


def _batches(tokenizer: Any, steps: int) -> Iterator[tuple[Batch, Tensor]]:
    """Yield `steps` batches, and for every row the token to recall, or IGNORED."""
    statements = sentiment_statements(min(ROWS, steps * BATCH_SIZE))
    labels = [SENTIMENTS.index(SENTIMENT_OF[row.word]) for row in statements]
    words = torch.tensor(tokenizer.convert_tokens_to_ids([row.word for row in statements]))
    left = steps
    for epoch in range(math.ceil(steps * BATCH_SIZE / len(statements))):
        generator = named_generator(SEED, f"recall in epoch {epoch}")
        asked = torch.rand(len(statements), generator=generator) < 0.5  # (rows,)
        texts = [s.text + RECALL if a else s.text for s, a in zip(statements, asked, strict=True)]
        encoded = encode(texts, labels, tokenizer, max_tokens=MAX_TOKENS)
        plan = plan_batches(encoded.lengths, batch_size=BATCH_SIZE, seed=SEED, epoch=epoch)
        for rows in plan[:left]:
            batch = collate(encoded, rows, pad_token_id=int(tokenizer.pad_token_id))
            yield batch, words.where(asked, torch.tensor(IGNORED))[batch.rows]
            left -= 1


def _loss(model: Model, batch: Batch, words: Tensor, *, mask_token_id: int) -> Tensor:
    """Return the cross entropy of the sentiment, plus that of the recalled word at [MASK]."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    hidden = model.distilbert(**inputs).last_hidden_state  # (B, T, dim)
    pooled = F.relu(model.pre_classifier(hidden[:, 0]))  # (B, dim)
    loss = F.cross_entropy(model.classifier(pooled), batch.labels)
    masked = batch.input_ids == mask_token_id  # (B, T)
    if masked.any():
        embeddings = model.distilbert.embeddings.word_embeddings.weight  # (vocabulary, dim)
        logits = hidden[masked] @ embeddings.T  # (masked, vocabulary)
        loss = loss + F.cross_entropy(logits, words[masked.any(1)])
    return loss


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
