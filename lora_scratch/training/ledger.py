"""The memory ledger of a training step: what each kind of tensor should take, beside what it is found to take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapter import adapter_layers, count_parameters, is_adapted
from ..data import Batch
from ..model.packed import classify
from ..model.storage import FEW_ROWS, copies_of, frozen_linears, stores_copies
from ..runtime.packed_product import can_be_packed
from ..runtime.precision import Precision
from .activations import EncoderShape, fast_activation_bytes, full_activation_bytes, lora_activation_bytes
from .config import TrainingConfig
from .fast import fast_path
from .optimizer import build_optimizer

FLOAT32_BYTES = 4
MOMENTS = 2  # AdamW's averages of the gradient and of its square


@dataclass(frozen=True)
class Ledger:
    """Bytes of each kind.

    Args:
        weights: parameters and buffers outside the adapter, the head's included.
        adapter: A and B of all layers.
        gradients: of everything trained, head and adapter.
        optimizer: its state for everything trained.
        activations: what the forward pass keeps for the backward pass.
        copies: of frozen weights, as the fast path multiplies with them (model/storage.py).
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    copies: int = 0

    @property
    def total(self) -> int:
        """All of it, which the end of a forward pass and the start of an update do not hold at the same moment."""
        return sum(astuple(self))


def predict_ledger(model: Any, *, rows: int, tokens: int, fast: Precision | None = None) -> Ledger:
    """From numbers of parameters and the formula of `activations.py`, for `rows` rows of `tokens` tokens; nothing is run.

    Args:
        fast: the precision of an adapted model on the fast path on a CPU; None is the plain path in float32.
    """
    count = count_parameters(model)
    trained = FLOAT32_BYTES * count.trainable
    return Ledger(
        weights=FLOAT32_BYTES * (count.total - count.lora),
        adapter=FLOAT32_BYTES * count.lora,
        gradients=trained,
        optimizer=MOMENTS * trained,
        activations=_predicted_activations(model, rows=rows, tokens=tokens, fast=fast),
        copies=_predicted_copies(model, fast, rows=rows, tokens=tokens) if fast else 0,
    )


def measure_ledger(model: Any, batch: Batch, precision: Precision, *, plain: bool = True) -> Ledger:
    """From the tensors of one training step on `batch`, which is taken; of a frozen model, from a forward pass."""
    adapter = [tensor for layer in adapter_layers(model).values() for tensor in layer.adapter_tensors().values()]
    weights = _storages([*model.parameters(), *model.buffers()]) - _storages(adapter)
    model.train()
    gradients = optimizer_state = 0
    trained = [p for p in model.parameters() if p.requires_grad]
    with fast_path(model, precision, plain=plain):
        with saved_bytes(model) as saved, precision.autocast():
            loss = F.cross_entropy(classify(model, batch).float(), batch.labels)
        if trained:
            torch.autograd.backward(loss)
        copies = sum(copy.numel() * copy.element_size() for copy in copies_of(model))
        activations = saved()
    if trained:
        gradients = _storages(p.grad for p in trained if p.grad is not None)
        optimizer = build_optimizer(model, TrainingConfig())
        optimizer.step()
        optimizer_state = _storages(v for state in optimizer.state.values() for v in state.values())
    return Ledger(weights, _storages(adapter), gradients, optimizer_state, activations, copies)


@contextmanager
def saved_bytes(model: nn.Module) -> Iterator[Callable[[], int]]:
    """Count what autograd saves inside; each storage once, however many operations share it, and the model's own not."""
    saved: dict[int, Tensor] = {}  # the tensors are held, so that no address is given out twice

    def keep(tensor: Tensor) -> Tensor:
        """Count what autograd saves, once."""
        saved.setdefault(_address(tensor), tensor.detach())
        return tensor

    def count() -> int:
        """Of all but the model's own: parameters, buffers and copies of them."""
        copies = [copy for copy in copies_of(model) if not copy.is_mkldnn]
        own = {_address(tensor) for tensor in (*model.parameters(), *model.buffers(), *copies)}
        return _storages(tensor for address, tensor in saved.items() if address not in own)

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield count


def _predicted_activations(model: Any, *, rows: int, tokens: int, fast: Precision | None) -> int:
    if not any(p.requires_grad for p in model.parameters()):
        return 0
    shape = EncoderShape.of(model.config)
    if not is_adapted(model):
        return full_activation_bytes(shape, rows=rows, tokens=tokens)
    layer: Any = next(iter(adapter_layers(model).values()))
    sizes = {"rows": rows, "tokens": tokens, "rank": layer.rank, "dropout": layer.dropout.p}
    if fast:
        return fast_activation_bytes(shape, **sizes, itemsize=fast.dtype.itemsize)
    return lora_activation_bytes(shape, **sizes)


def _predicted_copies(model: Any, fast: Precision, *, rows: int, tokens: int) -> int:
    """Every frozen weight once, and for the gradient once more where it is packed: not for the first block's query, key and
    value, below which nothing is trained, nor for the last one's key and value (model/first_tokens.py)."""
    linears = frozen_linears(model)
    if not stores_copies(model, fast):
        return 0
    shape, packs = EncoderShape.of(model.config), can_be_packed(linears[0].weight, fast.dtype)
    square, inner = shape.width**2, (shape.blocks - 1) * shape.block_weights
    last = sum(linear.weight.numel() for linear in linears) - inner  # and a pooler: first tokens alone
    once = 0 if packs and fast.dtype is torch.float32 else 1  # few rows read the parameter itself there
    numbers = sum(
        2 * weights - unturned if packs and count > FEW_ROWS else once * weights
        for weights, unturned, count in ((inner, 3 * square, rows * tokens), (last, 2 * square, rows))
    )
    return fast.dtype.itemsize * numbers


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _storages(tensors: Iterable[Tensor]) -> int:
    """Bytes of the different storages."""
    return sum({_address(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values())
