"""The laws of the function: start, formula, gradients, rank, scaling, dtypes, trained tensors."""

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
)
from .laws import Make, law

DRAWS = 64  # of dropout, until one differs from the first


@law
def check_zero_start(make: Make, x: Tensor) -> None:
    """A new layer computes exactly what its base does, in evaluation and in training with dropout."""
    layer = make()
    sample = as_input(x, layer.weight.dtype)
    for training in (True, False):
        layer.train(training)
        with torch.random.fork_rng():
            output = f"the output with training={training}"
            expect_same_bits(layer(sample), layer.base(sample), output, "the base's bits")


@law
def check_dense_formula(make: Make, x: Tensor) -> None:
    """In float64 the layer computes what its base does with W + ΔW in place of W, to 1e-12."""
    layer, sample = in_dtype(off_init(make()), x, torch.float64)
    effective, total = layer.effective_weight(), layer.weight + layer.delta_weight()
    expect_close(effective, total, 1e-12, "effective_weight()", "weight + delta_weight()")
    output = base_output(layer, sample, effective)
    expect_close(layer(sample), output, 1e-12, "forward", "the base with effective_weight()")


@law
def check_gradients(make: Make, x: Tensor, *, constants: Collection[str] = ()) -> None:
    """In float64 the gradients of adapter tensors and input agree with finite differences."""
    layer, sample = in_dtype(off_init(make()), x, torch.float64)
    for name in constants:
        hold_constant(layer, name)
    adapter = [tensor.requires_grad_() for tensor in layer.adapter_tensors().values()]
    has_gradient = sample.is_floating_point()
    inputs = [*adapter, sample.detach().clone().requires_grad_()] if has_gradient else adapter

    def output(*tensors: Tensor) -> Tensor:
        """Return the layer's output; gradcheck changes the adapter tensors in place."""
        return layer(tensors[-1] if has_gradient else sample)  # type: ignore[no-any-return]

    try:
        torch.autograd.gradcheck(output, inputs)
    except RuntimeError as error:  # from gradcheck, or from a forward without a gradient
        raise LawError(str(error), expected="those of finite differences") from error


@law
def check_base_frozen(make: Make, x: Tensor, *, frozen: Collection[str] = ()) -> None:
    """Every adapter tensor but the `frozen` ones gets a float32 gradient, no base tensor does."""
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
            fault = f"{name} has the gradient {tensor.grad}"
            raise LawError(fault, expected="a float32 one, not zero")


@law
def check_start_learns(make: Make, x: Tensor) -> None:
    """At the start some adapter tensor has a gradient that is not zero: training can begin."""
    layer = make().eval()
    layer(x).float().square().sum().backward()
    gradients = [tensor.grad for tensor in layer.adapter_tensors().values()]
    if not any(gradient is not None and gradient.any() for gradient in gradients):
        raise LawError("every gradient is zero at the start", expected="one that is not")


@law
def check_dropout_acts(make: Make, x: Tensor) -> None:
    """In training, a layer with dropout gives different outputs at different draws."""
    layer = off_init(make()).train()
    own = [module for name, module in layer.named_modules() if not name.startswith("base")]
    if not any(isinstance(module, nn.Dropout) and module.p > 0 for module in own):
        return
    with torch.random.fork_rng(), torch.no_grad():
        first = layer(x)
        if all(torch.equal(layer(x), first) for _ in range(DRAWS)):
            raise LawError(f"{DRAWS} draws of dropout give one output", expected="different ones")


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
    """t times the scaling gives t times ΔW and t times the update of the output."""
    layer, sample = in_dtype(off_init(make()), x, torch.float64)
    base, delta, scaling = layer.base(sample), layer.delta_weight(), layer.scaling
    update = layer(sample) - base
    for t in (2.0, -0.5, 0.0):
        layer.scaling = t * scaling
        at = f"at {t} x scaling"
        expect_close(layer.delta_weight(), t * delta, 1e-12, f"delta_weight() {at}", f"{t} times it")
        expect_close(layer(sample), base + t * update, 1e-12, f"forward {at}", f"{t} x the update")


@law
def check_dtypes_and_shapes(make: Make, x: Tensor) -> None:
    """Shape and dtype are the base's, merged or not. Under bf16 autocast ΔW has the same bits."""
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
    """Adapter tensors are finite float32. They are all that is trained, `frozen` ones apart."""
    layer = make()
    tensors = layer.adapter_tensors()
    for name, tensor in tensors.items():
        is_frozen = name in frozen
        valid = tensor.dtype == torch.float32 and bool(tensor.isfinite().all())
        if not valid or tensor.requires_grad is is_frozen:
            fault = f"{name} is {tensor.dtype}, requires_grad={tensor.requires_grad}"
            raise LawError(fault, expected=f"finite float32 with requires_grad={not is_frozen}")
    named = {name: tensor for name, tensor in tensors.items() if name not in frozen}
    trained = {id(p): name for name, p in layer.named_parameters() if p.requires_grad}
    if set(trained) != {id(t) for t in named.values()} or len(trained) != len(named):
        fault = f"adapter_tensors() has {sorted(named)} to train and the layer trains"
        raise LawError(f"{fault} {sorted(trained.values())}", expected="the same tensors, each once")
