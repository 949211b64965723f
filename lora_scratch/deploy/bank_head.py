"""Many heads in one module: every row of a batch goes through the head of its own adapter.

An adapter's head is trained in full, so a bank keeps whole heads. The module's own code is run for every row, with that
row's values, by torch's `vmap`: its products with gathered weights become batched ones, and any head will do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..layers.lora import at_least_float32
from .bank_layers import BankLayer, Routing


class BankHead(BankLayer):
    """Slots of whole modules: each row goes through a copy of the base's module that has the slot's own values.

    The module's own code is run, by torch's `vmap` over the rows: products with gathered weights become batched ones. Heads
    may differ in the number of outputs. The output is as wide as the widest, and -inf where a row's head has no output: a
    label of probability zero.

    Shape: one buffer a tensor of the module, (slots, *its shape), called `stacked/weight` and so on; width (slots,), the
        number of outputs, or None while all have the base's.
    """

    swaps_values = True  # fast/frozen_weights.py: the base's layers run with other weights for every row
    width: Tensor | None

    def __init__(self, base: nn.Module, routing: Routing, *, slots: int) -> None:
        super().__init__(base, routing, slots=slots)
        self.names = {name: f"stacked/{name.replace('.', '/')}" for name in base.state_dict()}  # no dots in it
        self.register_buffer("width", None, persistent=False)
        for slot in range(slots):
            self.write(slot, base)

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """The base's module, with every row's own values. Shape: x (B, ...) -> (B, ..., widest)."""
        if not self.routing.enabled:
            return self.base(x, *args, **kwargs)  # type: ignore[no-any-return]
        rows, _ = self.routing.of(x)
        gathered = {name: getattr(self, buffer).index_select(0, rows) for name, buffer in self.names.items()}

        def one(values: dict[str, Tensor], row: Tensor) -> Tensor:
            """One row through the head with its own values."""
            return functional_call(self.base, values, (row[None], *args), kwargs)[0]  # type: ignore[no-any-return]

        y: Tensor = vmap(one, randomness="different")(gathered, x)
        if self.width is None:
            return y
        widths = self.width[rows].view(-1, *[1] * (y.dim() - 1))  # (B, 1, ...)
        return y.masked_fill(torch.arange(y.shape[-1], device=y.device) >= widths, -torch.inf)

    def write(self, slot: int, twin: nn.Module) -> None:
        """See `BankLayer`; `twin` is a module of the same structure, perhaps with another number of outputs."""
        own, base = twin.state_dict(), self.base.state_dict()
        contents = {
            buffer: at_least_float32(own[name]) if own[name].is_floating_point() else own[name]
            for name, buffer in self.names.items()
        }
        widths = {(len(own[name]), len(base[name])) for name in base if own[name].shape[:1] != base[name].shape[:1]}
        if widths and self.width is None:
            self._base_width = min(widths)[1]
            self.width = torch.full((self.slots,), self._base_width, device=next(iter(base.values())).device)
        if self.width is not None:
            contents["width"] = torch.tensor(min(widths)[0] if widths else self._base_width)
        self._fill(slot, contents)
