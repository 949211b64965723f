r"""Many adapters in one layer: every row of a batch names its adapter.

    y[i] = x[i] Wᵀ + b + t[i] · (x[i] A[k]ᵀ) B[k]ᵀ        k = rows[i]

The factors of all adapters are stacked, one slot each, with the scaling multiplied into B and lower
ranks filled up with zeros. A batch gathers the factors of its rows and multiplies them in two
batched products. There is no loop over adapters, and no shape depends on the slots in use, so a
compiled model stays compiled. Slot 0 is the base, all zeros. t is the strength, 1 as trained.

DoRA scales the outputs by g = m / ‖V‖. The squared norm of V = W + t · scaling · B A is a quadratic
polynomial in t. A slot stores its coefficients, so every strength is exact:

    y[i] = x[i] Wᵀ + b + (g − 1) · x[i] Wᵀ + g · t[i] · (x[i] A[k]ᵀ) B[k]ᵀ
    g = m[k] / √(c₀[k] + 2 t c₁[k] + t² c₂[k])

A slot without DoRA has m = c₀ = 1 and c₁ = c₂ = 0, so g = 1. A trained bias is stored as a change
of b. For inference alone: no dropout, no gradients.

Source: Chen et al. 2023, Punica: Multi-Tenant LoRA Serving, arXiv:2310.18547, section 4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.conv1d import LoRAConv1D
from ..layers.dora import DoRALinear
from ..layers.embedding import LoRAEmbedding
from ..layers.lora import AdapterLayer, LoRALinear, at_least_float32
from ..layers.offset import OffsetLoRALinear, stored_tensors

BASE_SLOT = 0


class Routing:
    """The slot and the strength of every row of a batch. A bank writes it, all its layers read it.

    Shape: rows, strength (B,); None while no rows are named.
    """

    def __init__(self) -> None:
        self.enabled = True
        self.rows: Tensor | None = None
        self.strength: Tensor | None = None

    def of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slots and strengths for the batch of `x`. Shape: x (B, ...) -> (B,), (B,).

        Raises:
            RuntimeError: no rows are named. ValueError: not as many as `x` has.
        """
        if self.rows is None or self.strength is None:
            fault = "no row of the batch has named its adapter"
            raise RuntimeError(f"{fault}; call the model inside `with bank.rows([...])`")
        if x.shape[0] != self.rows.shape[0]:
            raise ValueError(
                f"a layer's input has {x.shape[0]} rows where {self.rows.shape[0]} have named "
                "their adapter; expected one name a row, and every layer's input with the rows "
                "apart in its first dimension, not packed or shared"
            )
        return self.rows, self.strength


class BankLayer(nn.Module, ABC):
    """A layer of the base with slots for adapters. Slots are buffers without gradients."""

    routes_rows = True  # fast/packed.py: a batch must keep its rows apart
    base: nn.Module

    def __init__(self, base: nn.Module, routing: Routing, *, slots: int) -> None:
        super().__init__()
        self.base, self.routing, self.slots = base, routing, slots

    @abstractmethod
    def write(self, slot: int, source: nn.Module) -> None:
        """Make `slot` compute what `source` does: the base layer adapted, or with other values.

        Raises:
            ValueError: a kind of adapter that a slot can't hold. Then nothing has changed.
        """

    def grow(self, slots: int) -> None:
        """Add slots up to this number. Write the new ones before their use."""
        self.slots = slots
        for name, stack in list(self.named_buffers(recurse=False)):
            self._buffers[name] = _enlarged(stack, (self.slots, *stack.shape[1:]))

    @property
    def weight(self) -> Tensor:
        """The base's weight, for code that reads `layer.weight`."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The base's bias, for code that reads `layer.bias`."""
        return self.base.bias  # type: ignore[return-value]

    @torch.no_grad()
    def _fill(self, slot: int, contents: dict[str, Tensor]) -> None:
        """Write tensors to a slot, with zeros where its buffers are larger or not named."""
        for name, values in contents.items():
            stack, shape = self._buffers.get(name), (self.slots, *values.shape)
            stack = values.new_zeros(shape) if stack is None else _enlarged(stack, shape)
            self.register_buffer(name, stack, persistent=False)
        for name, stack in self.named_buffers(recurse=False):
            stack[slot] = 0
            if name in contents:
                stack[slot][tuple(slice(size) for size in contents[name].shape)] = contents[name]


class BankLinear(BankLayer):
    """Slots of LoRA, DoRA and biases on Linear, NF4Linear or Conv1D, and of biases on LayerNorm.

    Args:
        rank: allocated from the start. The layer grows for a higher one.

    Shape: lora_A (slots, rank, in), lora_B (slots, out, rank), gain_terms (slots, 4, out) for m,
        c₀, c₁, c₂, bias_change (slots, out); None until a slot needs them.
    """

    lora_A: Tensor | None
    lora_B: Tensor | None
    gain_terms: Tensor | None
    bias_change: Tensor | None

    def __init__(self, base: nn.Module, routing: Routing, *, slots: int, rank: int = 1) -> None:
        super().__init__(base, routing, slots=slots)
        self.rank = min(rank, *self.weight.shape)
        for name in ("lora_A", "lora_B", "gain_terms", "bias_change"):
            self.register_buffer(name, None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return y of the formula above. Shape: x (B, ..., in) -> (B, ..., out)."""
        y: Tensor = self.base(x)  # (B, ..., out)
        if not self.routing.enabled:
            return y
        rows, strength = self.routing.of(x)
        adapted = y.flatten(1, -2) if y.dim() > 2 else y[:, None]  # (B, T, out)
        if self.lora_A is not None and self.lora_B is not None:
            x = x.flatten(1, -2) if x.dim() > 2 else x[:, None]  # (B, T, in)
            low = torch.bmm(x, self.lora_A.index_select(0, rows).to(x.dtype).mT)  # (B, T, rank)
            lora_B = self.lora_B.index_select(0, rows)
            if self.gain_terms is not None:
                gain = _gain(self.gain_terms.index_select(0, rows), strength)  # (B, 1, out)
                product = adapted if self.bias is None else adapted - self.bias.to(y.dtype)
                # g − 1 is small: subtract in float32, round to the narrower dtype of y afterwards
                adapted, lora_B = adapted + (gain - 1).to(y.dtype) * product, gain.mT * lora_B
            adapted = torch.baddbmm(adapted, *_last_factors(low, lora_B, strength))
        if self.bias_change is not None:
            adapted = adapted + self.bias_change.index_select(0, rows)[:, None].to(y.dtype)
        return adapted.reshape(y.shape)

    def write(self, slot: int, source: nn.Module) -> None:
        """See `BankLayer`. `source` is an adapter layer, or the base layer with another bias."""
        contents, bias = {}, cast("Tensor | None", source.bias)
        if isinstance(source, AdapterLayer):
            contents["lora_A"], contents["lora_B"] = _factors(source, min_rank=self.rank)
        if isinstance(source, DoRALinear):
            terms = [source.magnitude.detach(), *source.squared_norm_terms()]
            contents["gain_terms"] = torch.stack(terms)
        if bias is not None and self.bias is not None and not torch.equal(bias, self.bias):
            contents["bias_change"] = at_least_float32(bias.detach() - self.bias.detach())
        if self.gain_terms is None and "gain_terms" in contents:
            self.gain_terms = _no_gain(contents["gain_terms"]).repeat(self.slots, 1, 1)
        if self.gain_terms is not None:
            contents.setdefault("gain_terms", _no_gain(self.gain_terms[slot]))
        self._fill(slot, contents)


class BankEmbedding(BankLayer):
    """Slots of LoRA on an embedding table. Arguments as for `BankLinear`.

    Shape: lora_A (slots, num, rank), lora_B (slots, dim, rank), None until a slot needs them.
    """

    lora_A: Tensor | None
    lora_B: Tensor | None

    def __init__(self, base: nn.Module, routing: Routing, *, slots: int, rank: int = 1) -> None:
        super().__init__(base, routing, slots=slots)
        self.rank = min(rank, *self.weight.shape)
        for name in ("lora_A", "lora_B"):
            self.register_buffer(name, None, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return W[ids[i]] + t[i] · A[k][:, ids[i]]ᵀ B[k]ᵀ. Shape: (B, ...) -> (B, ..., dim)."""
        y: Tensor = self.base(ids)  # (B, ..., dim)
        if self.lora_A is None or self.lora_B is None or not self.routing.enabled:
            return y
        rows, strength = self.routing.of(ids)
        low = self.lora_A[rows[:, None], ids.reshape(len(rows), -1)]  # (B, T, rank)
        lora_B = self.lora_B.index_select(0, rows)
        update = torch.bmm(*_last_factors(low, lora_B, strength))  # (B, T, dim)
        return y + update.view(y.shape).to(y.dtype)

    def write(self, slot: int, source: nn.Module) -> None:
        """See `BankLayer`. `source` is a LoRAEmbedding, or the plain table."""
        if not isinstance(source, AdapterLayer):
            return self._fill(slot, {})
        lora_A, lora_B = _factors(source, min_rank=self.rank)  # (rank, num), (dim, rank)
        self._fill(slot, {"lora_A": lora_A.T, "lora_B": lora_B})


def _factors(layer: AdapterLayer, *, min_rank: int) -> tuple[Tensor, Tensor]:
    """Return A and scaling · B in at least float32, filled up with zeros to `min_rank`.

    Raises:
        ValueError: neither LoRA nor DoRA.
    """
    if type(layer) not in (LoRALinear, LoRAConv1D, DoRALinear, OffsetLoRALinear, LoRAEmbedding):
        raise ValueError(f"a {type(layer).__name__} can't stand in a bank; expected LoRA or DoRA")
    dtype = at_least_float32(layer.weight).dtype
    lora_A, lora_B, *_ = (tensor.to(dtype) for tensor in stored_tensors(layer).values())
    more = max(0, min_rank - len(lora_A))
    return F.pad(lora_A, (0, 0, 0, more)), F.pad(layer.scaling * lora_B, (0, more))


def _last_factors(low: Tensor, lora_B: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Return t[i] · low[i], shape (B, T, rank), and B[i]ᵀ, shape (B, rank, out)."""
    low = (strength[:, None, None] * low).to(low.dtype)  # one rounding, as with a number
    return low, lora_B.to(low.dtype).mT


def _gain(terms: Tensor, strength: Tensor) -> Tensor:
    """Return g of the formula, 0 where the root is 0. Shape: terms (B, 4, out) -> (B, 1, out)."""
    t = strength[:, None, None]
    magnitude, c0, c1, c2 = terms[:, :, None].unbind(1)  # (B, 1, out) each
    norm = (c0 + 2 * t * c1 + t.square() * c2).clamp_min(0).sqrt()  # rounding can give less than 0
    return magnitude / norm.masked_fill(norm == 0, torch.inf)


def _no_gain(terms: Tensor) -> Tensor:
    """Return the terms of g = 1. Shape: (4, out) -> (4, out)."""
    ones = torch.zeros_like(terms)
    ones[:2] = 1
    return ones


def _enlarged(stack: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the stack, enlarged with zeros where a dimension is shorter than in `shape`."""
    sizes = list(map(max, zip(stack.shape, shape, strict=True)))
    if sizes == list(stack.shape):
        return stack
    larger = stack.new_zeros(sizes)
    larger[tuple(slice(size) for size in stack.shape)] = stack
    return larger
