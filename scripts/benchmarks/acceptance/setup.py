"""What every part works with: a device, a model of a fitting size, and batches of mixed widths."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

import torch
from lora_scratch.commands.benchmarks.acceptance.recorder import RepeatingRecorder
from lora_scratch.commands.benchmarks.emotion_shape import LABELS, emotion_lengths
from torch import Tensor, nn

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject
from lora_scratch.data import Batch, Encoded
from lora_scratch.fast.cuda_graphs import CudaRecorder

Value = TypeVar("Value")
VOCABULARY = 1000
FIRST_TOKEN = 5  # those before it are special
# Of the proofs. With 1e-3 the losses of random labels jump, and rounding errors grow a thousandfold in thirty steps.
LEARNING_RATE = 1e-4
# What a CPU gets through in about a second.
SMALL = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 128}


@dataclass(frozen=True)
class Setup:
    """Where the parts run, and the inputs that the user named.

    Args:
        model: folder of an encoder for the part `minilm`, and `dataset` its rows.
    """

    device: torch.device
    model: str | None = None
    dataset: str | None = None

    @property
    def is_small(self) -> bool:
        """Whether there is no GPU: models and batches are small then, and a fake records in place of CUDA graphs."""
        return self.device.type != "cuda"

    def choose(self, full: Value, small: Value) -> Value:
        """`full` on a GPU, `small` on a CPU."""
        return small if self.is_small else full

    def recorder(self) -> Any:
        """What records the steps here."""
        return RepeatingRecorder() if self.is_small else CudaRecorder(self.device)

    def free_memory(self) -> None:
        """Give back what nothing refers to. On a CPU nobody counts it, and looking for it takes a second."""
        if not self.is_small:
            gc.collect()
            torch.cuda.empty_cache()

    def describe(self) -> str:
        """How the part ran, to stand before its result; empty on a GPU."""
        return self.choose("", "small form on a CPU, with a fake recorder: ")


def build_model(setup: Setup, *, dropout: float) -> Any:
    """A DistilBERT with random weights and an adapter, in training mode on the device; the same bits at every call.

    All numbers are large enough to count: with transformers' own random weights every loss is log(labels) to a percent,
    whatever the model computes, and a new adapter is zero.
    """
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    sizes = {"dim": 768, **setup.choose({}, SMALL)}
    names = ("dropout", "attention_dropout", "seq_classif_dropout")
    config = DistilBertConfig(
        vocab_size=VOCABULARY,
        num_labels=len(LABELS),
        initializer_range=sizes["dim"] ** -0.5,
        **dict.fromkeys(names, dropout),
        **sizes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = inject(DistilBertForSequenceClassification(config), LoRAConfig(dropout=dropout), seed=0)
        _enlarge(model)
    return model.train().to(setup.device)


@torch.no_grad()
def _enlarge(model: Any) -> None:
    """Logits of about 1, and an adapter away from its start."""
    model.classifier.weight.mul_(4)
    for layer in adapter_layers(model).values():
        layer.adapter_tensors()["lora_B.weight"].normal_(std=0.1)


def trainable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the trainable tensors on the CPU, by name."""
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def random_batch(setup: Setup, rows: int, width: int, generator: torch.Generator) -> Batch:
    """Random rows of uneven lengths, with padding in every batch: one that has none may take another attention kernel.

    Shape: (rows, width); rows >= 2, width >= 4.
    """
    lengths = torch.randint(3, width + 1, (rows,), generator=generator)
    lengths[0], lengths[1] = width, width // 2
    mask = torch.arange(width) < lengths[:, None]
    ids = torch.randint(FIRST_TOKEN, VOCABULARY, (rows, width), generator=generator).where(mask, 0)
    labels = torch.randint(len(LABELS), (rows,), generator=generator)
    return Batch(ids, mask.long(), labels, torch.arange(rows)).to(setup.device)


def mixed_steps(setup: Setup, *, count: int, rows: Sequence[int], widths: Sequence[int]) -> list[list[Batch]]:
    """Steps of a micro-batch for each of `rows`; the widths take turns, so that every shape comes back."""
    generator = torch.Generator().manual_seed(0)
    return [
        [random_batch(setup, size, widths[(step + place) % len(widths)], generator) for place, size in enumerate(rows)]
        for step in range(count)
    ]


def random_rows(count: int, *, longest: int | None = None) -> Encoded:
    """Random rows in random order, of the emotion data's lengths, cut to `longest` tokens."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(emotion_lengths(count))[torch.randperm(count, generator=generator)]
    lengths = lengths if longest is None else lengths.clamp(max=longest)
    offsets = torch.tensor([0, *accumulate(lengths.tolist())])
    tokens = torch.randint(FIRST_TOKEN, VOCABULARY, (int(offsets[-1]),), generator=generator, dtype=torch.int32)
    labels = torch.randint(len(LABELS), (count,), generator=generator)
    return Encoded(tokens, offsets, labels, truncated=0, max_tokens=longest or int(lengths.max()))
