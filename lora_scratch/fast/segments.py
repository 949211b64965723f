r"""Attention within each row of a packed batch on a GPU: torch's variable-length kernels, with dropout.

    rows  [CLS] a b [SEP] | [CLS] c [SEP] | ...        starts = (0, 4, 7, ..., N)

A kernel reads where rows start and end on the device, so no padding is computed and no host waits.
Of what torch has, with dropout, gradients and such starts, for torch 2.6 to 2.13:

    aten._flash_attention_forward       float16, bfloat16; the fastest; Ampere or newer
    aten._efficient_attention_forward   float32 too, and older GPUs
    nn.attention.varlen.varlen_attn     from 2.10 on: the first of these with its dropout set to 0
    scaled_dot_product_attention        of nested tensors: ends in the same two, after wrapping and
                                        unwrapping every tensor, and reads the offsets on the host

So the first two are called by name, and torch differentiates them. Their dropout comes from torch's
generator, also in a CUDA graph. Only a test can say whether a private operator computes what is
meant: `choose_kernel` compares it with `exact_attention`, gradients and dropout included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Largest error against float32 over the rms, of outputs and of gradients. Loose: a wrong kernel is
# off by about 1.
TOLERANCES = {torch.float32: 1e-2, torch.float16: 5e-2, torch.bfloat16: 2e-1}
LENGTHS = (1, 7, 130, 2, 33)  # of the rows of the test


@dataclass(frozen=True)
class Segments:
    """The rows in a sequence of N tokens.

    Shape: starts (R + 1,) int32, with N at the end. first (R,), the first token of each row.
        position (N,), the number of each token in its row. row (N,), the number of its row.

    Args:
        rows: those that count. The rows after them fill the sequence up (fast/row_batch.py).
        longest: no row has more tokens.
        kernel: computes attention.
    """

    starts: Tensor
    first: Tensor
    position: Tensor
    row: Tensor
    rows: int
    longest: int
    kernel: Kernel

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, scaling: float, dropout: float = 0.0) -> Tensor:
        """Return softmax(scaling · q kᵀ) v within each row.

        Shape: k, v (N, heads, d); q and the result the same, or (R, heads, d) of first tokens alone.
        """
        if torch.is_autocast_enabled(q.device.type):  # as for torch's scaled_dot_product_attention
            q, k, v = (x.to(torch.get_autocast_dtype(q.device.type)) for x in (q, k, v))
        starts, longest = self.starts, self.longest
        if len(q) != len(k):
            starts, longest = torch.arange(len(starts), device=q.device, dtype=torch.int32), 1
        return self.kernel(q, k, v, (starts, self.starts), (longest, self.longest), scaling, dropout)


Kernel = Callable[[Tensor, Tensor, Tensor, tuple[Tensor, Tensor], tuple[int, int], float, float], Tensor]


def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    scaling: float,
    dropout: float,
) -> Tensor:
    """Return the attention of torch's flash kernel. starts and longest are of queries and keys."""
    operator = torch.ops.aten._flash_attention_forward
    output: Tensor = operator(q, k, v, *starts, *longest, dropout, False, False, scale=scaling)[0]
    return output


def efficient_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    scaling: float,
    dropout: float,
) -> Tensor:
    """Return the attention of torch's memory-efficient kernel."""
    operator = torch.ops.aten._efficient_attention_forward
    q, k, v = q[None], k[None], v[None]
    inputs = (q, k, v, None, *starts, *longest, dropout, 0, True)  # no mask; keep for the gradient
    output: Tensor = operator(*inputs, scale=scaling)[0]
    return output[0]


def exact_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    scaling: float,
    dropout: float,
) -> Tensor:
    """Return the attention by its formula over all pairs of tokens. For tests, on any device."""
    rows = [row_of_each(*side) for side in zip(starts, (len(q), len(k)), strict=True)]
    scores = torch.einsum("qhd,khd->hqk", q, k) * scaling
    scores = scores.masked_fill(rows[0][:, None] != rows[1], -torch.inf)
    return torch.einsum("hqk,khd->qhd", F.dropout(scores.softmax(-1), dropout), v)


def row_of_each(starts: Tensor, count: int) -> Tensor:
    """Return the number of the row of each token. Shape: starts (R + 1,) -> (count,) int64."""
    return torch.bucketize(torch.arange(count, device=starts.device, dtype=starts.dtype), starts[1:], right=True)


@cache
def choose_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> tuple[Kernel | None, str]:
    """Return the first kernel that is right here; else None, with the reason in one line."""
    kernels = [efficient_attention] if dtype is torch.float32 else [flash_attention, efficient_attention]
    reasons = []
    for kernel in kernels:
        reason = kernel_fault(kernel, device, dtype, head_dim)
        if not reason:
            return kernel, ""
        reasons.append(f"{kernel.__name__} {reason}")
    return None, "; ".join(reasons)


def kernel_fault(kernel: Kernel, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Return what is wrong with a kernel on this device; empty if nothing is."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(0)
        try:
            for first_tokens in (False, True):
                if fault := _fault(kernel, _test_rows(device), dtype, head_dim, first_tokens):
                    return fault
        except (RuntimeError, TypeError, AttributeError) as error:
            return f"raises {type(error).__name__}: {(str(error) or repr(error)).splitlines()[0]}"
    return ""


def _test_rows(device: torch.device) -> Tensor:
    return F.pad(torch.tensor(LENGTHS).cumsum(0), (1, 0)).to(device, torch.int32)


def _fault(kernel: Kernel, starts: Tensor, dtype: torch.dtype, head_dim: int, first: bool) -> str:
    """Compare with the formula, without dropout. Then test the law of dropout."""
    count, longest = sum(LENGTHS), max(LENGTHS)
    queries = len(LENGTHS) if first else count
    of_queries = torch.arange(len(starts), device=starts.device, dtype=torch.int32)
    rows = (of_queries if first else starts, starts)
    sizes = (1 if first else longest, longest)
    shapes = [(rows_, 2, head_dim) for rows_ in (queries, count, count, queries)]
    q, k, v, g = (torch.randn(shape, device=starts.device).to(dtype) for shape in shapes)

    def run(function: Kernel, *tensors: Tensor, dropout: float = 0.0) -> list[Tensor]:
        leaf_q, leaf_k, leaf_v = leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        output = function(leaf_q, leaf_k, leaf_v, rows, sizes, head_dim**-0.5, dropout)
        return [output, *torch.autograd.grad(output, leaves, g.to(output.dtype))]

    expected = run(exact_attention, q.float(), k.float(), v.float())
    errors = [_error(x, y) for x, y in zip(run(kernel, q, k, v), expected, strict=True)]
    if not max(errors) <= TOLERANCES[dtype]:
        return f"is off by {max(errors):.1e} of the rms"
    output, _, _, grad_v = run(kernel, q, k, torch.ones_like(v), dropout=0.5)
    return _dropout_fault(output.float(), g.float(), grad_v.float(), TOLERANCES[dtype])


def _dropout_fault(output: Tensor, g: Tensor, grad_v: Tensor, tolerance: float) -> str:
    """Test dropout with values of 1: the output has mean 1 and varies.

    The output is linear in v for the entries that were kept. So ⟨o, g⟩ = ⟨v, ∂⟨o, g⟩/∂v⟩, unless the
    backward pass keeps other ones.
    """
    forward, backward = (output * g).sum(), grad_v.sum()
    apart = float((forward - backward).abs() / (output * g).square().sum().sqrt())
    if not apart <= tolerance:
        return f"drops other entries in its backward pass ({apart:.1e})"
    deviation = float(output.std())
    error = float((output.mean((1, 2)) - 1).mean().abs())
    # a row of n tokens has a deviation of at least n^-0.5; 5 times that of the mean of all rows
    if not (deviation > 0.01 and error < 5 * deviation / (len(output) ** 0.5)):
        return f"drops by another law (mean off by {error:.2f}, deviation {deviation:.2f})"
    return ""


def _error(found: Tensor, expected: Tensor) -> float:
    difference = (found.float() - expected).abs().max()
    return float(difference / expected.square().mean().sqrt())


def head_dim_of(config: Any) -> int:
    """Return the entries of a head of an encoder."""
    return int(config.hidden_size // config.num_attention_heads)
