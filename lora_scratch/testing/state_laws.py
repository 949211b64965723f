"""The laws of merging, switching off, modes and saving: they never change the layer's tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from .evidence import (
    TOLERANCE,
    LawError,
    base_output,
    expect_close,
    expect_refusal,
    expect_same_bits,
    expect_unchanged,
    in_dtype,
    off_init,
    reference_output,
    snapshot,
)
from .laws import Make, law


@law
def check_merge_equals_forward(make: Make, x: Tensor) -> None:
    """Merged and not, the layer computes the float64 formula to the tolerance of its dtype."""
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
    """Ten merges and unmerges leave every bit; a second merge or unmerge in a row is an error."""
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
    """merge() refuses NaN and infinity in any adapter tensor and changes nothing."""
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
def check_modes_leave_weights(make: Make, x: Tensor) -> None:
    """train(), eval(), forward and state_dict() change no bit and neither merge nor unmerge."""
    layer = off_init(make())
    before = snapshot(layer)
    for merged in (False, True):
        if merged:
            layer.merge()
        for call in (layer.train, layer.eval, layer.state_dict, lambda layer=layer: layer(x)):
            with torch.random.fork_rng():
                call()
            expect_unchanged(layer, before, f"train(), eval(), forward, state_dict(); merged={merged}")
            if layer.merged is not merged:
                raise LawError(f"merged is {layer.merged}", expected=f"{merged}, as before")


@law
def check_disabled_is_base(make: Make, x: Tensor) -> None:
    """With `enabled` False the layer is its base, bit for bit, merged or not, and can come back."""
    for dtype in TOLERANCE:
        layer, sample = in_dtype(off_init(make()), x, dtype)
        for state in ("unmerged", "merged"):
            if state == "merged":
                layer.merge()
            adapted = layer(sample)
            layer.enabled = False
            output = f"the {state} output"
            expect_same_bits(layer(sample), layer.base(sample), f"{output} in {dtype}", "the base's bits")
            layer.enabled = True
            expect_same_bits(layer(sample), adapted, f"{output} once enabled", "the adapted one")
