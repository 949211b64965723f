r"""Where A and B start. With every method the layer starts exactly as the base.

default      A uniform in ±1/√in, B = 0                                as `LoRALinear` is built
peft         the same, with the numbers that PEFT draws from the same torch seed
gaussian     A normal with standard deviation 1/rank, B = 0            LoRA paper, section 4.1
orthogonal   even rows of A and odd columns of B normal/10, the rest 0: A and B are not zero, B A is
pissa        √(S/scaling) times the first singular vectors of W        on `OffsetLoRALinear`
olora        the first columns of Q and rows of R in W = Q R           on `OffsetLoRALinear`
eva          A = the first right singular vectors of the inputs, B = 0      `PrincipalInputs`
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from .conv1d import out_in
from .lora import AdapterLayer, at_least_float32
from .offset import OffsetLoRALinear

OFFSET_METHODS = ("pissa", "olora")
METHODS = ("default", "peft", "gaussian", "orthogonal", *OFFSET_METHODS, "eva")
EMBEDDING_A = "lora_embedding_A"  # the name of A in LoRAEmbedding.adapter_tensors()
EMBEDDING_METHODS = ("default", "peft", "gaussian")  # gaussian changes nothing there, as in PEFT


@torch.no_grad()
def initialize(layer: AdapterLayer, method: str, generator: torch.Generator | None = None) -> None:
    """Set A and B of a new layer to their start. `default` and `eva` change nothing here.

    Raises:
        ValueError: an unknown method, or one that does not fit the layer.
    """
    if method not in METHODS:
        raise ValueError(f"init is {method!r}; expected one of {', '.join(METHODS)}")
    tensors = layer.adapter_tensors()
    is_embedding = EMBEDDING_A in tensors
    if is_embedding and method not in EMBEDDING_METHODS:
        known = ", ".join(EMBEDDING_METHODS)
        raise ValueError(f"init is {method!r} on an embedding; expected one of {known}")
    if method != "default" and not is_embedding and "lora_A.weight" not in tensors:
        lacking = f"{type(layer).__name__}, which has no A of LoRA's"
        raise ValueError(f"init is {method!r} on {lacking}; expected default")
    if method in _starts and not (method == "gaussian" and is_embedding):
        _starts[method](layer, generator)


def gaussian(layer: AdapterLayer, generator: torch.Generator | None = None) -> None:
    """Draw A from a normal distribution with deviation 1/rank, as PEFT does; B stays zero."""
    lora_A = layer.adapter_tensors()["lora_A.weight"]
    lora_A.copy_(torch.empty(lora_A.shape).normal_(std=1 / layer.rank, generator=generator))


def orthogonal(layer: AdapterLayer, generator: torch.Generator | None = None) -> None:
    """Draw the even rows of A and the odd columns of B. The others are zero, and so is B A.

    Both factors get a gradient from the first step. PEFT also rotates the rank axis at random. That
    does not change which functions can be reached, and its B A is 1e-8 instead of zero.

    Raises:
        ValueError: an odd rank.
    Source: Rethinking LoRA initialization, https://datta0.github.io/posts/rethink-lora-init
    """
    if layer.rank % 2:
        raise ValueError(f"rank is {layer.rank}; expected an even rank for init 'orthogonal'")
    lora_A, lora_B = (layer.adapter_tensors()[name] for name in ("lora_A.weight", "lora_B.weight"))
    for factor, part in ((lora_A, lora_A[0::2]), (lora_B, lora_B[:, 1::2])):
        factor.zero_()
        part.copy_(torch.empty(part.shape).normal_(generator=generator) / 10)


def pissa(layer: AdapterLayer, generator: torch.Generator | None = None) -> None:
    """Set A₀ = √(S/scaling) Vᵀ and B₀ = U √(S/scaling) from the first terms of W = U S Vᵀ."""
    offset, weight = _offset(layer)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    root = (values[: layer.rank] / layer.scaling).sqrt()
    offset.start_at(root[:, None] * right[: layer.rank], left[:, : layer.rank] * root)


def olora(layer: AdapterLayer, generator: torch.Generator | None = None) -> None:
    """Set A₀ to the first rows of R and B₀ to the first columns of Q, with W = Q R."""
    offset, weight = _offset(layer)
    q, r = torch.linalg.qr(weight)
    offset.start_at(r[: layer.rank], q[:, : layer.rank])


def peft(layer: AdapterLayer, generator: torch.Generator | None = None) -> None:
    """Draw the bits that PEFT draws, if `generator` has its seed and layers come in the same order.

    PEFT builds two `nn.Linear`, each of which draws its weight, and then draws A again. For an
    embedding it draws A, B and B.
    """
    tensors = layer.adapter_tensors()
    lora_A, lora_B = list(tensors.values())[:2]
    if EMBEDDING_A in tensors:
        torch.randn(lora_A.shape, generator=generator)
        torch.randn(lora_B.shape, generator=generator)
        lora_B.copy_(torch.empty(lora_B.shape).normal_(generator=generator))
        return
    for shape in (lora_A.shape, lora_B.shape, lora_A.shape):
        drawn = init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)
    lora_A.copy_(drawn)


_starts = {start.__name__: start for start in (gaussian, orthogonal, pissa, olora, peft)}


class PrincipalInputs:
    """The first right singular vectors of all inputs of a layer, in a fixed amount of memory.

    The class keeps S Vᵀ of the inputs so far, cut to its `kept` largest directions; a new batch is
    appended, and the result is decomposed and cut again. The vectors are exact if the inputs span
    at most `kept` directions, else close to exact.

    Args:
        rank: the number of vectors that `directions` returns.
        kept: the number of directions kept; four times the rank if None.

    Source: Ross et al. 2008, Incremental Learning for Robust Visual Tracking, section 3.2 (the
        incremental SVD); Paischer et al. 2024, EVA, arXiv:2410.07170, section 3.
    """

    def __init__(self, rank: int, *, kept: int | None = None) -> None:
        self.rank, self.kept = rank, kept or 4 * rank
        self._sketch: Tensor | None = None  # S Vᵀ (at most kept, in)

    @torch.no_grad()
    def add(self, inputs: Tensor) -> None:
        """Add a batch of inputs. Shape: (..., in)."""
        rows = at_least_float32(inputs.detach()).reshape(-1, inputs.shape[-1])
        if self._sketch is not None:
            rows = torch.cat([self._sketch, rows])
        # R in rows = Q R has the same S Vᵀ as the rows, and is small however many rows there are
        _, values, right = torch.linalg.svd(torch.linalg.qr(rows, mode="r").R, full_matrices=False)
        self._sketch = (values[:, None] * right)[: self.kept]

    def directions(self) -> Tensor:
        """Return the first `rank` right singular vectors, largest first. Shape: (rank, in).

        Raises:
            ValueError: the inputs span fewer directions.
        """
        sketch = torch.zeros(1, 1) if self._sketch is None else self._sketch
        values = sketch.norm(dim=1)  # the singular values, largest first
        spanned = int((values > 1e-6 * values[0]).sum())  # below that float32 holds no direction
        if spanned < self.rank:
            expected = f"at least the rank, {self.rank}: give more batches"
            raise ValueError(f"the inputs span {spanned} directions; expected {expected}")
        leading: Tensor = sketch[: self.rank] / values[: self.rank, None]
        return leading


class NoRandomNumbers(TorchFunctionMode):
    """A context that draws no random numbers, for tensors whose values are loaded next."""

    _draws = (Tensor.uniform_, Tensor.normal_, init.kaiming_uniform_, init.uniform_, init.normal_)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the tensor itself in place of a draw; call every other function."""
        if func in self._draws:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def stored_alpha(alpha: float, *, rslora: bool) -> float:
    """Return the alpha of the stored LoRA: at twice the rank it gives the same scaling."""
    return alpha * (math.sqrt(2) if rslora else 2)


def _offset(layer: AdapterLayer) -> tuple[OffsetLoRALinear, Tensor]:
    if not isinstance(layer, OffsetLoRALinear):
        needed = "pissa and olora start away from zero and need an OffsetLoRALinear"
        raise ValueError(f"{needed}, not a {type(layer).__name__}")
    return layer, at_least_float32(out_in(layer.base, layer.weight))
