r"""The laws of an adapter layer, as functions that take any layer, also one that you wrote, and need no test framework.

    from lora_scratch.testing import check_all

    check_all(lambda: MyLayer(nn.Linear(6, 4), rank=2, alpha=3), torch.randn(5, 6))

A law that does not hold raises `LawError`, an AssertionError that names the law, what was found and what was expected.
`make` gives a fresh layer at each call, in float32, with whatever dropout and scaling you want proven; `x` is
an input of it. Laws look at the layer as it is made and away from its start (every adapter tensor moved by seeded noise),
since most mistakes multiply by zero where B is zero. They leave torch's global random state alone.

A layer that is not meant to obey a law says so: DoRA's update has no rank bound and is not linear in the scaling, and
its gradient takes the row norm for a constant,

    check_all(make, x, skip=["low_rank", "linear_in_scaling"], constants=["row_norm"])
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import TypeVar

import torch
from torch import Tensor

from ..layers import AdapterLayer
from .evidence import (
    TOLERANCE,
    LawError,
    as_input,
    base_output,
    expect_close,
    expect_like,
    expect_refusal,
    expect_same_bits,
    expect_unchanged,
    hold_constant,
    in_dtype,
    off_init,
    reference_output,
    same_random_state,
    snapshot,
)

Make = Callable[[], AdapterLayer]
Law = Callable[[Make, Tensor], None]
Check = TypeVar("Check", bound=Callable[..., None])

LAWS: dict[str, Law] = {}  # by the name that `skip` and a LawError use, in the order of `check_all`


def law(check: Check) -> Check:
    """A decorator: `check_zero_start` is the law `zero_start`, and what it raises says so."""
    name = check.__name__.removeprefix("check_")

    @functools.wraps(check)
    def named(*args: object, **options: object) -> None:
        try:
            check(*args, **options)
        except LawError as error:
            raise LawError(error.found, where=name, expected=error.expected) from error.__cause__
        except Exception as error:  # a layer that fails half-way breaks the law as well
            raise LawError(f"{type(error).__name__}: {error}", where=name, expected="no exception") from error

    LAWS[name] = named
    return named  # type: ignore[return-value]


def check_all(make: Make, x: Tensor, *, skip: Collection[str] = (), constants: Collection[str] = ()) -> None:
    """Check every law of `LAWS` that is not named in `skip`.

    Args:
        make: gives a fresh layer in float32.
        x: an input of the layer.
        skip: laws that this kind of layer is not meant to obey.
        constants: methods of the layer whose value its gradient takes for a constant by design.

    Raises:
        LawError: the first law that is broken.
        ValueError: a name in `skip` that is no law.
    """
    unknown = sorted(set(skip) - set(LAWS))
    if unknown:
        raise ValueError(f"no such law: {', '.join(unknown)}; there are {', '.join(LAWS)}")
    for name, check in LAWS.items():
        if name == "gradients" and name not in skip:
            check_gradients(make, x, constants=constants)
        elif name not in skip:
            check(make, x)


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
        return layer(tensors[-1] if sample.is_floating_point() else sample)  # type: ignore[no-any-return]

    try:
        torch.autograd.gradcheck(output, inputs)
    except RuntimeError as error:  # gradcheck's own error, and a forward that autograd can't follow
        raise LawError(str(error), expected="those of finite differences") from error


@law
def check_base_frozen(make: Make, x: Tensor) -> None:
    """Backward reaches every adapter tensor with a float32 gradient, and no tensor of the base."""
    layer = off_init(make())
    layer(x).float().square().sum().backward()
    for name, parameter in layer.base.named_parameters():
        if parameter.requires_grad or parameter.grad is not None:
            raise LawError(f"base.{name} is trained", expected="a base without gradients")
    for name, tensor in layer.adapter_tensors().items():
        if tensor.grad is None or not tensor.grad.any() or tensor.grad.dtype != torch.float32:
            raise LawError(f"{name} has the gradient {tensor.grad}", expected="a float32 one, not zero")


@law
def check_merge_equals_forward(make: Make, x: Tensor) -> None:
    """Both agree with the dense formula in float64, to the tolerance of their dtype; merged is the base with that weight."""
    for dtype, tolerance in TOLERANCE.items():
        layer, sample = in_dtype(off_init(make()), x, dtype)
        exact = reference_output(layer, sample)
        expect_close(layer(sample), exact, tolerance, f"forward in {dtype}", "the float64 formula")
        layer.merge()
        if layer.merged_weight is None or not layer.merged:
            raise LawError("nothing is merged after merge()", expected="a merged_weight")
        expect_close(layer(sample), exact, tolerance, f"merged in {dtype}", "the float64 formula")
        folded = base_output(layer, sample, layer.merged_weight)
        expect_same_bits(layer(sample), folded, f"merged in {dtype}", "the base's with merged_weight")


@law
def check_unmerge_restores(make: Make, x: Tensor) -> None:
    """Ten cycles of merge and unmerge leave every bit of tensors and output; a second merge or unmerge is an error."""
    for dtype in TOLERANCE:
        layer, sample = in_dtype(off_init(make()), x, dtype)
        before, output = snapshot(layer), layer(sample)
        expect_refusal(layer.unmerge, "unmerge() of what is not merged")
        for _ in range(10):
            layer.merge()
            expect_refusal(layer.merge, "merge() of what is merged")
            layer.unmerge()
        expect_unchanged(layer, before, f"10 merges in {dtype}")
        expect_same_bits(layer(sample), output, f"the output in {dtype}", "what it was before the merge")


@law
def check_merge_refuses_nonfinite(make: Make, x: Tensor) -> None:
    """A NaN or an infinity in any adapter tensor is an error of merge(), which then has changed nothing."""
    for value in (float("nan"), float("inf")):
        for name in make().adapter_tensors():
            layer = off_init(make())
            with torch.no_grad():
                layer.adapter_tensors()[name].view(-1)[0] = value
            before = snapshot(layer)
            expect_refusal(layer.merge, f"merge() with {value} in {name}")
            expect_unchanged(layer, before, "a refused merge")
            if layer.merged:
                raise LawError("merged after a refused merge", expected="not merged")


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
def check_modes_leave_weights(make: Make, x: Tensor) -> None:
    """train(), eval(), forward and state_dict() change no bit and do not merge; state_dict() is always unmerged."""
    layer = off_init(make())
    before = snapshot(layer)
    for merged in (False, True):
        if merged:
            layer.merge()
        for call in (layer.train, layer.eval, layer.state_dict, lambda layer=layer: layer(x)):
            with same_random_state():
                call()
            expect_unchanged(layer, before, f"train(), eval(), forward, state_dict(); merged={merged}")
            if layer.merged is not merged:
                raise LawError(f"merged is {layer.merged}", expected=f"{merged}, as before")


@law
def check_disabled_is_base(make: Make, x: Tensor) -> None:
    """With `enabled` False the layer is its base, bit for bit, merged or not; switched on again it is what it was."""
    for dtype in TOLERANCE:
        layer, sample = in_dtype(off_init(make()), x, dtype)
        for state in ("unmerged", "merged"):
            if state == "merged":
                layer.merge()
            adapted = layer(sample)
            layer.enabled = False
            expect_same_bits(layer(sample), layer.base(sample), f"the {state} output in {dtype}", "the base's bits")
            layer.enabled = True
            expect_same_bits(layer(sample), adapted, f"the {state} output once enabled", "the adapted one")


@law
def check_adapter_tensors(make: Make, x: Tensor) -> None:
    """The adapter tensors are float32, finite, trainable, and all that is trainable in the layer."""
    layer = make()
    tensors = layer.adapter_tensors()
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not tensor.requires_grad or not tensor.isfinite().all():
            found = f"{name} is {tensor.dtype}, requires_grad={tensor.requires_grad}"
            raise LawError(found, expected="finite float32 that requires a gradient")
    trained = {id(p): name for name, p in layer.named_parameters() if p.requires_grad}
    if set(trained) != {id(t) for t in tensors.values()} or len(trained) != len(tensors):
        found = f"adapter_tensors() has {sorted(tensors)} and the layer trains {sorted(trained.values())}"
        raise LawError(found, expected="the same tensors, each once")
