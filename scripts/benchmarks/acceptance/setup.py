"""What the parts share: a device, a model, steppers, and batches of mixed widths."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject
from lora_scratch.data import Batch, Encoded, collate, plan_batches
from lora_scratch.errors import ConfigError
from lora_scratch.fast.cuda_recorder import CudaRecorder
from lora_scratch.fast.path import FastPath
from lora_scratch.runtime.precision import Precision
from lora_scratch.tasks import task_of
from lora_scratch.training import TrainingConfig
from lora_scratch.training.step import Stepper

from ..emotion_shape import LABELS, emotion_lengths
from .recorder import RepeatingRecorder

Value = TypeVar("Value")
VOCABULARY = 1000
FIRST_TOKEN = 5  # those before it are special
# Of the proofs. With 1e-3 the losses of random labels jump, and rounding errors grow a thousandfold
# in thirty steps.
LEARNING_RATE = 1e-4
# What a CPU gets through in about a second.
SMALL = {
    "dim": 32,
    "hidden_dim": 64,
    "n_layers": 2,
    "n_heads": 2,
    "max_position_embeddings": 128,
}


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
        """Whether there is no GPU. Then the model is small, and the recorder a fake."""
        return self.device.type != "cuda"

    def choose(self, full: Value, small: Value) -> Value:
        """Return `full` on a GPU, `small` on a CPU."""
        return small if self.is_small else full

    def recorder(self) -> Any:
        """Return a recorder for this device."""
        return RepeatingRecorder() if self.is_small else CudaRecorder(self.device)

    def free_memory(self) -> None:
        """Free what nothing refers to. On a CPU do nothing: nobody counts it there."""
        if not self.is_small:
            gc.collect()
            torch.cuda.empty_cache()

    def padded(self, rows: Encoded, numbers: Sequence[int], multiple: int) -> Batch:
        """Return the batch of these rows, padded to a multiple of so many tokens."""
        return collate(rows, numbers, pad_token_id=0, multiple=multiple)

    def describe(self) -> str:
        """Return how the part ran, to be put before its result; empty on a GPU."""
        return self.choose("", "small form on a CPU, with a fake recorder: ")


def choose_device(name: str) -> torch.device:
    """Return `cuda` where there is a GPU and `name` is not `cpu`, else `cpu`.

    Leave the GPU alone: the process that starts the parts must hold none of its memory, nor the GPU
    itself where only one process may use it.

    Raises:
        ConfigError: `cuda` where there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "no GPU here",
            where="--device cuda",
            expected="a GPU that torch sees",
            remedy="use --device cpu",
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def new_stepper(
    model: Any,
    precision: Precision,
    *,
    total_steps: int,
    recorder: Any = None,
) -> tuple[Stepper, FastPath]:
    """Return a stepper of the model, and its path.

    Args:
        recorder: records shapes that come back; None launches every kernel.
    """
    path = FastPath(recorder)
    config = TrainingConfig(learning_rate=LEARNING_RATE, warmup_ratio=0)
    options: dict[str, Any] = {"precision": precision, "total_steps": total_steps, "path": path}
    return Stepper(model, config, task=task_of(model), **options), path


def build_model(setup: Setup, *, dropout: float) -> Any:
    """Return a DistilBERT with random weights and an adapter, the same bits at every call.

    It is in training mode, on the device. All numbers are large enough to count: with the random
    weights of transformers every loss is log(labels) to a percent, whatever the model computes, and
    a new adapter is zero.
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
        base = DistilBertForSequenceClassification(config)
        model = inject(base, LoRAConfig(dropout=dropout), seed=0)
        _enlarge(model)
    return model.train().to(setup.device)


@torch.no_grad()
def _enlarge(model: Any) -> None:
    """Make the logits about 1, and move the adapter away from its start."""
    model.classifier.weight.mul_(4)
    for layer in adapter_layers(model).values():
        layer.adapter_tensors()["lora_B.weight"].normal_(std=0.1)


def trainable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the trainable tensors on the CPU, by name."""
    trainable = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    return {name: p.detach().cpu().clone() for name, p in trainable}


def random_batch(setup: Setup, rows: int, width: int, generator: torch.Generator) -> Batch:
    """Return random rows of uneven lengths, always with padding.

    A batch without padding may take another attention kernel.

    Shape: (rows, width); rows >= 2, width >= 4.
    """
    lengths = torch.randint(3, width + 1, (rows,), generator=generator)
    lengths[0], lengths[1] = width, width // 2
    mask = torch.arange(width) < lengths[:, None]
    ids = torch.randint(FIRST_TOKEN, VOCABULARY, (rows, width), generator=generator).where(mask, 0)
    labels = torch.randint(len(LABELS), (rows,), generator=generator)
    return Batch(ids, mask.long(), labels, torch.arange(rows)).to(setup.device)


def mixed_steps(
    setup: Setup,
    *,
    count: int,
    rows: Sequence[int],
    widths: Sequence[int],
) -> list[list[Batch]]:
    """Return steps with a micro-batch for each of `rows`.

    The widths take turns, so that every shape comes back.
    """
    generator = torch.Generator().manual_seed(0)

    def batch(size: int, turn: int) -> Batch:
        """Return a batch of the width whose turn it is."""
        return random_batch(setup, size, widths[turn % len(widths)], generator)

    return [[batch(size, step + turn) for turn, size in enumerate(rows)] for step in range(count)]


def batches_of(rows: Encoded, size: int) -> list[list[int]]:
    """Return the numbers of the rows of each batch, as the loop plans them."""
    return plan_batches(rows.lengths, batch_size=size, seed=0, epoch=0)


def random_rows(count: int, *, longest: int | None = None) -> Encoded:
    """Return random rows as long as the emotion data's, cut to `longest` tokens."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(count, generator=generator)
    lengths = torch.tensor(emotion_lengths(count))[order]
    lengths = lengths if longest is None else lengths.clamp(max=longest)
    offsets = torch.tensor([0, *accumulate(lengths.tolist())])
    size = (int(offsets[-1]),)
    of_tokens: dict[str, Any] = {"generator": generator, "dtype": torch.int32}
    tokens = torch.randint(FIRST_TOKEN, VOCABULARY, size, **of_tokens)
    labels = torch.randint(len(LABELS), (count,), generator=generator)
    max_tokens = longest or int(lengths.max())
    return Encoded(tokens, offsets, labels, truncated=0, max_tokens=max_tokens)
