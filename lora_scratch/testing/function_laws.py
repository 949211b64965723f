"""What an adapter layer computes, and what of it is trained: the formula, its gradients, its start, its rank, its dtypes."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from .evidence import (
    TOLERANCE,
    LawError,
    as_input,
    base_output,
    expect_close,
    expect_like,
    expect_same_bits,
    hold_constant,
    in_dtype,
    off_init,
    same_random_state,
)
from .laws import Make, law

DRAWS = 64  # of dropout, until one differs from the first


@law
def check_zero_start(make: Make, x: Tensor) -> None:
    """A fresh layer computes exactly what its base does, in training (dropout on) and in evaluation."""
    layer = make()
    sample = as_input(x, layer.weight.dtype)
    for training in (True, False):
        layer.train(training)
        with same_random_state():
            expect_same_bits(layer(sample), layer.base(sample), f"the output with training={training}", "the base's bits")


@law
def check_dense_formula(make: Make, x: Tensor) -> None:
    """In float64 the layer computes what its base does with W replaced by W + ΔW, to 1e-12."""
    layer, sample = in_dtype(off_init(make()), x, torch.float64)
    total = layer.weight + layer.delta_weight()
    expect_close(layer.effective_weight(), total, 1e-12, "effective_weight()", "weight + delta_weight()")
    expect_close(
        layer(sample),
        base_output(layer, sample, layer.effective_weight()),
        1e-12,
        "forward",
        "the base with effective_weight()",
    )


@law
def check_gradients(make: Make, x: Tensor, *, constants: Collection[str] = ()) -> None:
    """In float64 the gradients of every adapter tensor and of the input agree with finite differences."""
    layer, sample = in_dtype(off_init(make()), x, torch.float64)
    for name in constants:
        hold_constant(layer, name)
    adapter = [tensor.requires_grad_() for tensor in layer.adapter_tensors().values()]
    inputs = [*adapter, sample.detach().clone().requires_grad_()] if sample.is_floating_point() else adapter

    def output(*tensors: Tensor) -> Tensor:
        """The layer as a function of its tensors, which gradcheck moves in place, and of x."""
        return layer(tensors[-1] if sample.is_floating_point() else sample)  # type: ignore[no-any-return]

    try:
        torch.autograd.gradcheck(output, inputs)
    except RuntimeError as error:  # gradcheck's own error, and a forward that autograd can't follow
        raise LawError(str(error), expected="those of finite differences") from error


@law
def check_base_frozen(make: Make, x: Tensor, *, frozen: Collection[str] = ()) -> None:
    """Backward reaches every adapter tensor but the `frozen` ones with a float32 gradient, and no tensor of the base."""
    layer = off_init(make())
    layer(x).float().square().sum().backward()
    for name, parameter in layer.base.named_parameters():
        if parameter.requires_grad or parameter.grad is not None:
            raise LawError(f"base.{name} is trained", expected="a base without gradients")
    for name, tensor in layer.adapter_tensors().items():
        if name in frozen:
            if tensor.grad is not None:
                raise LawError(f"{name} has a gradient", expected="none, as it is frozen")
        elif tensor.grad is None or not tensor.grad.any() or tensor.grad.dtype != torch.float32:
            raise LawError(f"{name} has the gradient {tensor.grad}", expected="a float32 one, not zero")


@law
def check_start_learns(make: Make, x: Tensor) -> None:
    """At its start, too, some adapter tensor has a gradient that is not zero: training can leave it."""
    layer = make().eval()
    layer(x).float().square().sum().backward()
    if not any(tensor.grad is not None and tensor.grad.any() for tensor in layer.adapter_tensors().values()):
        raise LawError("every gradient is zero at the start", expected="one that is not, to leave it by")


@law
def check_dropout_acts(make: Make, x: Tensor) -> None:
    """In training a dropout of the layer, if it has one that drops, gives another output at another draw."""
    layer = off_init(make()).train()
    own = [module for name, module in layer.named_modules() if not name.startswith("base")]
    if not any(isinstance(module, nn.Dropout) and module.p > 0 for module in own):
        return
    with same_random_state(), torch.no_grad():
        first = layer(x)
        if all(torch.equal(layer(x), first) for _ in range(DRAWS)):
            raise LawError(f"{DRAWS} draws of its dropout give one output", expected="others")


@law
def check_low_rank(make: Make, x: Tensor) -> None:
    """ΔW is not zero away from the start, and has at most `rank` singular values above rounding."""
    layer, _ = in_dtype(off_init(make()), x, torch.float64)
    values = torch.linalg.svdvals(layer.delta_weight())
    rank = int((values > 1e-12 * values[0]).sum())
    if not 1 <= rank <= layer.rank:
        raise LawError(f"delta_weight() has rank {rank}", expected=f"1 to {layer.rank}")


@law
def check_linear_in_scaling(make: Make, x: Tensor) -> None:
    """t times the scaling is t times ΔW and t times the update of the output; no scaling is the base."""
    layer, sample = in_dtype(off_init(make()), x, torch.float64)
    base, delta, update = layer.base(sample), layer.delta_weight(), layer(sample) - layer.base(sample)
    first = layer.scaling
    for t in (2.0, -0.5, 0.0):
        layer.scaling = t * first
        expect_close(layer.delta_weight(), t * delta, 1e-12, f"delta_weight() at {t} x scaling", f"{t} times it")
        expect_close(layer(sample), base + t * update, 1e-12, f"forward at {t} x scaling", f"{t} x the update")


@law
def check_dtypes_and_shapes(make: Make, x: Tensor) -> None:
    """Shape and dtype are the base's, merged or not, also under bf16 autocast, where ΔW stays as exact as without."""
    for dtype in TOLERANCE:
        layer, sample = in_dtype(off_init(make()), x, dtype)
        expect_like(layer(sample), layer.base(sample), f"the output in {dtype}")
        expect_like(layer.delta_weight().to(dtype), layer.weight, f"delta_weight() of a base in {dtype}")
        layer.merge()
        expect_like(layer(sample), layer.base(sample), f"the merged output in {dtype}")
    layer = off_init(make())
    delta, effective = layer.delta_weight(), layer.effective_weight()
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        expect_like(layer(x), layer.base(x), "the output under autocast")
        expect_same_bits(layer.delta_weight(), delta, "delta_weight() under autocast", "as without")
        expect_same_bits(layer.effective_weight(), effective, "effective_weight() there", "as without")


@law
def check_adapter_tensors(make: Make, x: Tensor, *, frozen: Collection[str] = ()) -> None:
    """The adapter tensors are float32, finite and, but for the `frozen` ones, all that is trainable in the layer."""
    layer = make()
    tensors = layer.adapter_tensors()
    for name, tensor in tensors.items():
        is_frozen = name in frozen
        if tensor.dtype != torch.float32 or tensor.requires_grad is is_frozen or not tensor.isfinite().all():
            found = f"{name} is {tensor.dtype}, requires_grad={tensor.requires_grad}"
            raise LawError(found, expected=f"finite float32 with requires_grad={not is_frozen}")
    meant = {name: tensor for name, tensor in tensors.items() if name not in frozen}
    trained = {id(p): name for name, p in layer.named_parameters() if p.requires_grad}
    if set(trained) != {id(t) for t in meant.values()} or len(trained) != len(meant):
        found = f"adapter_tensors() has {sorted(meant)} to train and the layer trains {sorted(trained.values())}"
        raise LawError(found, expected="the same tensors, each once")
