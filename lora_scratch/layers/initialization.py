r"""Where A and B start. Whatever the method, the layer starts as the base, exactly: every product has a factor of zeros.

default      A uniform in ±1/√in, B = 0                                     LoRA, as `LoRALinear` is built
peft         the same, drawn as PEFT draws it from the same torch seed
gaussian     A normal with deviation 1/rank, B = 0                          LoRA paper, section 4.1
orthogonal   even rows of A and odd columns of B normal/10, the others 0    neither factor is zero, every product is
pissa        √(S/scaling) times the first singular vectors of W             PiSSA, on `OffsetLoRALinear`
olora        the first columns of Q and rows of R in W = Q R                OLoRA, on `OffsetLoRALinear`
eva          A = the first right singular vectors of the inputs, B = 0      EVA, `PrincipalInputs`; ranks stay equal
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .conv1d import out_in
from .embedding import LoRAEmbedding
from .lora import AdapterLayer, at_least_float32, kaiming_uniform
from .offset import OffsetLoRALinear

OFFSET_METHODS = ("pissa", "olora")
METHODS = ("default", "peft", "gaussian", "orthogonal", *OFFSET_METHODS, "eva")
EMBEDDING_METHODS = ("default", "peft", "gaussian")  # an embedding starts in one way only; PEFT's gaussian changes nothing


@torch.no_grad()
def initialize(layer: AdapterLayer, method: str, generator: torch.Generator | None = None) -> None:
    """Give A and B of a new layer the start that `method` stands for; `default` and `eva` leave what the layer drew.

    Raises:
        ValueError: a method that is not known, or not for this layer.
    """
    if method not in METHODS:
        raise ValueError(f"init is {method!r}; expected one of {', '.join(METHODS)}")
    if isinstance(layer, LoRAEmbedding) and method not in EMBEDDING_METHODS:
        raise ValueError(f"init is {method!r} on an embedding; expected one of {', '.join(EMBEDDING_METHODS)}")
    has_factors = isinstance(layer, LoRAEmbedding) or "lora_A.weight" in layer.adapter_tensors()
    if method != "default" and not has_factors:
        raise ValueError(f"init is {method!r} on {type(layer).__name__}, which has no A of LoRA's; expected default")
    if method in _starts and not (method == "gaussian" and isinstance(layer, LoRAEmbedding)):
        _starts[method](layer, generator)


def gaussian(layer: AdapterLayer, generator: torch.Generator | None = None) -> None:
    """A normal with standard deviation 1/rank, as PEFT reads the paper's "random Gaussian initialization"; B stays zero."""
    lora_A = layer.adapter_tensors()["lora_A.weight"]
    lora_A.copy_(torch.empty(lora_A.shape).normal_(std=1 / layer.rank, generator=generator))


def orthogonal(layer: AdapterLayer, generator: torch.Generator | None = None) -> None:
    """A on the even directions of rank space and B on the odd ones: neither is zero, and B A is, exactly.

    Both factors get a gradient from the first step. PEFT turns rank space by a random rotation besides, which leaves
    B A at 1e-8 instead of zero and does not change which functions can be reached.

    Raises:
        ValueError: an odd rank.
    Source: datta0, Rethinking LoRA initialization, 2024, https://datta0.github.io/posts/rethink-lora-init
    """
    if layer.rank % 2:
        raise ValueError(f"rank is {layer.rank}; expected an even rank for init 'orthogonal'")
    lora_A, lora_B = (layer.adapter_tensors()[name] for name in ("lora_A.weight", "lora_B.weight"))
    for factor, part in ((lora_A, lora_A[0::2]), (lora_B, lora_B[:, 1::2])):
        factor.zero_()
        part.copy_(torch.empty(part.shape).normal_(generator=generator) / 10)


def pissa(layer: AdapterLayer, generator: torch.Generator | None = None) -> None:
    """A₀ = √(S/scaling) Vᵀ and B₀ = U √(S/scaling) of the largest singular values of W = U S Vᵀ. Nothing is random."""
    offset, weight = _offset(layer)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    root = (values[: layer.rank] / layer.scaling).sqrt()
    offset.start_at(root[:, None] * right[: layer.rank], left[:, : layer.rank] * root)


def olora(layer: AdapterLayer, generator: torch.Generator | None = None) -> None:
    """A₀ = the first rows of R and B₀ = the first columns of Q in W = Q R. Nothing is random."""
    offset, weight = _offset(layer)
    q, r = torch.linalg.qr(weight)
    offset.start_at(r[: layer.rank], q[:, : layer.rank])


def peft(layer: AdapterLayer, generator: torch.Generator | None = None) -> None:
    """PEFT's numbers, bit for bit, where `generator` has the seed of PEFT's run and goes from layer to layer in order.

    PEFT builds two `nn.Linear`, each of which draws a weight, and then draws A again; for an embedding it draws A, B and B.
    """
    tensors = list(layer.adapter_tensors().values())
    lora_A, lora_B = tensors[0], tensors[1]
    if isinstance(layer, LoRAEmbedding):
        torch.randn(lora_A.shape, generator=generator)
        torch.randn(lora_B.shape, generator=generator)
        lora_B.copy_(torch.empty(lora_B.shape).normal_(generator=generator))
        return
    for rows, columns in (lora_A.shape, lora_B.shape, lora_A.shape):
        drawn = kaiming_uniform(rows, columns, generator)
    lora_A.copy_(drawn)


_starts: dict[str, Callable[[AdapterLayer, torch.Generator | None], None]] = {
    "gaussian": gaussian,
    "orthogonal": orthogonal,
    "pissa": pissa,
    "olora": olora,
    "peft": peft,
}


class PrincipalInputs:
    """The first right singular vectors of everything a layer has been fed, in memory that does not grow with it.

    Keeps S Vᵀ of what it has seen, cut to `kept` directions; each new batch is put below it and the whole decomposed again.
    What is cut is the smallest, so that with more directions kept than asked for the first ones are close to exact; they are
    exact if the inputs span no more than `kept` directions.

    Args:
        rank: how many vectors `directions` gives.
        kept: how many are carried along; four times the rank if None.

    Source: Ross et al. 2008, Incremental Learning for Robust Visual Tracking, section 3.2 (the incremental SVD);
        Paischer et al. 2024, EVA, arXiv:2410.07170, section 3.
    """

    def __init__(self, rank: int, *, kept: int | None = None) -> None:
        self.rank, self.kept = rank, kept or 4 * rank
        self._sketch: Tensor | None = None  # S Vᵀ (at most kept, in)

    @torch.no_grad()
    def add(self, inputs: Tensor) -> None:
        """Take in a batch of inputs. Shape: (..., in)."""
        rows = at_least_float32(inputs.detach()).reshape(-1, inputs.shape[-1])
        if self._sketch is not None:
            rows = torch.cat([self._sketch, rows])
        # only S Vᵀ is needed, and R in rows = Q R has the same: small, however many rows there are
        _, values, right = torch.linalg.svd(torch.linalg.qr(rows, mode="r").R, full_matrices=False)
        self._sketch = (values[:, None] * right)[: self.kept]

    def directions(self) -> Tensor:
        """The first `rank` right singular vectors, orthonormal, largest first. Shape: (rank, in).

        Raises:
            ValueError: the inputs span fewer directions than that.
        """
        sketch = torch.zeros(1, 1) if self._sketch is None else self._sketch
        values = sketch.norm(dim=1)  # the singular values, largest first
        spanned = int((values > 1e-6 * values[0]).sum())  # below that float32 holds no direction
        if spanned < self.rank:
            raise ValueError(
                f"the inputs span {spanned} directions; expected at least the rank, {self.rank}: give more batches"
            )
        leading: Tensor = sketch[: self.rank] / values[: self.rank, None]
        return leading


class NoRandomNumbers(TorchFunctionMode):
    """Within it no tensor is filled with random numbers: they are not wanted where the tensors are about to be loaded."""

    _draws = (Tensor.uniform_, Tensor.normal_, nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_)

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The tensor itself in place of a draw; everything else as it is."""
        if func in self._draws:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def stored_alpha(alpha: float, *, rslora: bool) -> float:
    """The alpha with which the plain LoRA of twice the rank, that pissa and olora are stored as, has the same scaling."""
    return alpha * (math.sqrt(2) if rslora else 2)


def _offset(layer: AdapterLayer) -> tuple[OffsetLoRALinear, Tensor]:
    if not isinstance(layer, OffsetLoRALinear):
        raise ValueError(f"pissa and olora start away from zero and need an OffsetLoRALinear, not a {type(layer).__name__}")
    return layer, at_least_float32(out_in(layer.base, layer.weight))
