"""Many heads in one module: every row of a batch uses the head of its adapter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..layers.lora import at_least_float32
from .bank_layers import BankLayer, Routing


class BankHead(BankLayer):
    """Slots of whole modules, since a head is trained in full.

    The module's own code runs for every row with that row's values, by torch's `vmap`, which turns
    products with gathered weights into batched ones. Heads can differ in their number of outputs:
    the output is as wide as the widest head, and -inf (probability 0) where a row has no label.

    Shape: for every tensor of the module a buffer `stacked/NAME` (slots, *shape). width (slots,),
        the numbers of outputs; None while all are the base's.
    """

    swaps_values = True  # fast/frozen_weights.py: its layers have other weights for every row
    width: Tensor | None

    def __init__(self, base: nn.Module, routing: Routing, *, slots: int) -> None:
        super().__init__(base, routing, slots=slots)
        names = base.state_dict()
        self.names = {name: f"stacked/{name.replace('.', '/')}" for name in names}  # without dots
        self.register_buffer("width", None, persistent=False)
        for slot in range(slots):
            self.write(slot, base)

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Run the base's module with every row's values. Shape: x (B, ...) -> (B, ..., widest)."""
        if not self.routing.enabled:
            return self.base(x, *args, **kwargs)  # type: ignore[no-any-return]
        rows, _ = self.routing.of(x)
        buffers = {name: getattr(self, buffer) for name, buffer in self.names.items()}
        gathered = {name: buffer.index_select(0, rows) for name, buffer in buffers.items()}

        def run(values: dict[str, Tensor], row: Tensor) -> Any:
            """Run the head on one row."""
            return functional_call(self.base, values, (row[None], *args), kwargs)[0]

        # the slots are float32; the next module has the base's dtype
        autocast = torch.is_autocast_enabled(x.device.type)
        inputs = x if autocast or not x.is_floating_point() else at_least_float32(x)
        y: Tensor = vmap(run, randomness="different")(gathered, inputs)
        if inputs is not x:
            y = y.to(x.dtype)
        if self.width is None:
            return y
        widths = self.width[rows].view(-1, *[1] * (y.dim() - 1))  # (B, 1, ...)
        return y.masked_fill(torch.arange(y.shape[-1], device=y.device) >= widths, -torch.inf)

    def write(self, slot: int, source: nn.Module) -> None:
        """See `BankLayer`. `source` has the structure of the base, and any number of outputs."""
        own, base = source.state_dict(), self.base.state_dict()
        contents = {
            buffer: at_least_float32(own[name]) if own[name].is_floating_point() else own[name]
            for name, buffer in self.names.items()
        }
        other = [name for name in base if own[name].shape[:1] != base[name].shape[:1]]
        widths = {(len(own[name]), len(base[name])) for name in other}
        if widths and self.width is None:
            self._base_width = min(widths)[1]
            device = next(iter(base.values())).device
            self.width = torch.full((self.slots,), self._base_width, device=device)
        if self.width is not None:
            contents["width"] = torch.tensor(min(widths)[0] if widths else self._base_width)
        self._fill(slot, contents)
