r"""What narrow dtypes cost an adapter, on any weights: updates lost in merging, bases that drift, outputs that are off.

Every layer here is a `LoRALinear` on a given weight whose A and B are normal, scaled so that ‖ΔW‖ is a given share of ‖W‖.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor, nn

from ..adapter.rounding import Survival, surviving
from ..adapter.targets import default_heads
from ..layers import LoRALinear
from ..runtime.seeds import named_generator
from ..testing import relative_error
from ..testing.evidence import reference_output

SHAPES = ((768, 768), (3072, 768), (768, 3072))  # the linear layers of a DistilBERT, (out, in)
STANDARD_DEVIATION = 0.04  # of the random weights
LARGEST = 6  # how many weights of a model are looked at
CYCLES = 10
NARROW = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, *NARROW)
RATIOS = (1e-1, 1e-2, 1e-3)


@dataclass(frozen=True)
class LostUpdate:
    """What of ΔW is left in W + ΔW stored in `dtype`, mean over the weights; adapter/rounding.py says what the figures are.

    Args:
        base_dtype: what W is stored in.
        ratio: ‖ΔW‖ / ‖W‖.
    """

    dtype: str
    base_dtype: str
    ratio: float
    survived: float
    error: float
    unchanged: float


@dataclass(frozen=True)
class Drift:
    """The share of a base weight's entries that are others after ten merges and unmerges, mean over the weights.

    Args:
        subtracted: by adding and subtracting ΔW.
        dropped: as LoRALinear does, which folds into a second tensor and then drops that.
    """

    dtype: str
    ratio: float
    subtracted: float
    dropped: float


@dataclass(frozen=True)
class OutputError:
    """Largest error of an output / rms of the outputs, against float64 on the same rounded tensors; worst of the weights.

    Args:
        apart: W x + scaling · B (A x), the adapter in float32 and rounded for the product.
        merged: with W + ΔW, summed in float32 and rounded once.
        rounded_twice: with W + ΔW where ΔW is rounded before it is added.
    """

    dtype: str
    rank: int
    apart: float
    merged: float
    rounded_twice: float


def random_weights(seed: int) -> dict[str, Tensor]:
    """A normal weight of every shape, by shape. Shape: (out, in)."""
    return {
        f"{out}x{width}": STANDARD_DEVIATION * torch.randn(out, width, generator=named_generator(seed, f"{out}x{width}"))
        for out, width in SHAPES
    }


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Some linear weights outside the head, evenly spread over the model, by name. Shape: (out, in)."""
    heads = tuple(f"{head}." for head in default_heads(model))
    linears = {
        name: module.weight.detach().float()
        for name, module in model.named_modules()
        if type(module) is nn.Linear and not f"{name}.".startswith(heads)
    }
    names = list(linears)[:: max(1, -(-len(linears) // LARGEST))]
    return {name: linears[name] for name in names}


@torch.no_grad()
def lost_updates(weights: Mapping[str, Tensor], *, rank: int = 8, seed: int = 0) -> list[LostUpdate]:
    """For every narrow dtype, base stored in it or in float32, and size of the update."""
    rows = []
    for dtype in NARROW:
        for base_dtype in (dtype, torch.float32):
            for ratio in RATIOS:
                found = [
                    _survival(adapted(w, base_dtype, rank=rank, ratio=ratio, seed=seed), dtype) for w in weights.values()
                ]
                figures = (mean(getattr(row, figure) for row in found) for figure in ("survived", "error", "unchanged"))
                rows.append(LostUpdate(_name(dtype), _name(base_dtype), ratio, *figures))
    return rows


@torch.no_grad()
def drifts(weights: Mapping[str, Tensor], *, rank: int = 8, seed: int = 0) -> list[Drift]:
    """For every dtype and size of the update."""
    rows = []
    for dtype in DTYPES:
        for ratio in RATIOS:
            layers = [adapted(w, dtype, rank=rank, ratio=ratio, seed=seed) for w in weights.values()]
            subtracted, dropped = (mean(map(changed, layers)) for changed in (changed_by_subtracting, changed_by_dropping))
            rows.append(Drift(_name(dtype), ratio, subtracted, dropped))
    return rows


@torch.no_grad()
def output_errors(
    weights: Mapping[str, Tensor], *, ranks: Iterable[int] = (8, 64), ratio: float = 1e-1, rows: int = 64, seed: int = 0
) -> list[OutputError]:
    """For every dtype and rank, on `rows` normal inputs."""
    found = []
    for dtype in DTYPES:
        for rank in ranks:
            errors = [_errors(adapted(w, dtype, rank=rank, ratio=ratio, seed=seed), rows, seed) for w in weights.values()]
            found.append(OutputError(_name(dtype), rank, *map(max, zip(*errors, strict=True))))
    return found


@torch.no_grad()
def adapted(weight: Tensor, dtype: torch.dtype, *, rank: int, ratio: float, seed: int) -> LoRALinear:
    """A LoRALinear on `weight` in `dtype`, with a bias of zeros, in evaluation mode, whose ‖ΔW‖ is `ratio` · ‖W‖."""
    out_features, in_features = weight.shape
    linear = nn.Linear(in_features, out_features)
    linear.weight.copy_(weight)
    linear.bias.zero_()
    layer = LoRALinear(linear.to(dtype), rank=rank, alpha=2 * rank).eval()
    generator = named_generator(seed, f"{rank}")
    for tensor in (layer.lora_A, layer.lora_B):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    layer.lora_B.mul_(ratio * layer.weight.float().norm() / layer.delta_weight().norm())
    return layer


def changed_by_subtracting(layer: LoRALinear) -> float:
    """The share of entries that are others after adding and subtracting ΔW, rounded to the weight's dtype, ten times."""
    weight, delta = layer.weight.clone(), layer.delta_weight().to(layer.weight.dtype)
    for _ in range(CYCLES):
        weight += delta
        weight -= delta
    return float((weight != layer.weight).float().mean())


def changed_by_dropping(layer: LoRALinear) -> float:
    """The share of entries that are others after `merge` and `unmerge`, ten times."""
    before = layer.weight.clone()
    for _ in range(CYCLES):
        layer.merge()
        layer.unmerge()
    return float((layer.weight != before).float().mean())


def _survival(layer: LoRALinear, dtype: torch.dtype) -> Survival:
    return surviving("", layer.weight, layer.delta_weight(), layer.effective_weight().to(dtype))


def _errors(layer: LoRALinear, rows: int, seed: int) -> tuple[float, float, float]:
    x = torch.randn(rows, layer.weight.shape[1], generator=named_generator(seed, "x")).to(layer.weight.dtype)
    exact = reference_output(layer, x)
    once = layer.effective_weight().to(x.dtype)
    twice = layer.weight + layer.delta_weight().to(x.dtype)
    merged, rounded_twice = (relative_error(nn.functional.linear(x, weight, layer.bias), exact) for weight in (once, twice))
    return relative_error(layer(x), exact), merged, rounded_twice


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
