"""Many adapters of one base in one model: every row of a batch names its adapter.

    bank = AdapterBank(model, capacity=8)             # a plain model, changed in place
    bank.add("emotion", "runs/emotion/adapter")       # a folder, or a model with an adapter
    bank.add("topic", "runs/topic/adapter")
    with bank.rows(["emotion", "base", "topic"]):
        logits = model(**batch).logits                # (3, widest); -inf where a head has no label
    bank.replace("topic", "runs/topic-2/adapter")
    bank.remove("emotion")

The mathematics is in deploy/bank_layers.py. `load_adapter` loads a new adapter into a copy of the
base that shares its memory. Only then is it written to a free slot, and only then does the slot get
its name. So an error leaves the bank as it was.

One bank holds LoRA of any rank, rsLoRA and DoRA on Linear and Conv1D, LoRA on Embedding, pissa and
olora (stored as LoRA), trained heads, and trained biases of Linear, Conv1D and LayerNorm, also on a
four-bit base. It refuses a module that two adapters use in different ways (LoRA, and a head).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from ..adapter.inject import replace_module
from ..adapter.state import adapter_layers, is_adapted, trained_biases
from ..adapter.targets import nearest
from ..errors import ConfigError, TargetError
from ..layers import AdapterLayer, NF4Linear, stores_in_out
from .bank_head import BankHead
from .bank_layers import BASE_SLOT, BankEmbedding, BankLayer, BankLinear, Routing
from .shared_copy import SharedCopy, Source, load_into_shared_copy, own_labels

BASE = "base"
Strength = float | Sequence[float]


class AdapterBank:
    """N adapters in one model.

    It grows for an adapter that exceeds capacity or rank. Then a compiled model compiles again.

    Args:
        model: a plain model. It is frozen; its layers are wrapped in place when adapters need it.
        capacity, max_rank: allocated from the start.
        must_cover: parameters with random values (a new head), which every adapter must contain.

    Raises:
        ConfigError: a model with an adapter or a bank already, or no capacity or rank.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        capacity: int = 8,
        max_rank: int = 8,
        must_cover: Collection[str] = (),
    ) -> None:
        for flag, value in (("capacity", capacity), ("max_rank", max_rank)):
            if value < 1:
                raise ConfigError(f"{flag} is {value}", where="AdapterBank", expected="at least 1")
        if is_adapted(model) or any(isinstance(module, BankLayer) for module in model.modules()):
            fault = "the model has an adapter or a bank already"
            raise ConfigError(fault, where="AdapterBank", expected="a plain model")
        self.model, self._max_rank, self._must_cover = model, max_rank, must_cover
        self._size = capacity + 2  # the base's slot, and a spare one to write a replacement to
        self._slots = {BASE: BASE_SLOT}
        self._labels = {BASE: own_labels(model)}
        self._layers: dict[str, BankLayer] = {}
        self._routing, self._lock = Routing(), threading.RLock()
        self._required_grad = {name: p.requires_grad for name, p in model.named_parameters()}
        model.requires_grad_(False)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters, in the order they were added. Rows can also name `base`."""
        return tuple(name for name in self._slots if name != BASE)

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The labels of the base and of every adapter, in the order of their logits."""
        return dict(self._labels)

    def add(self, name: str, source: Source, *, verify_base: bool = True) -> None:
        """Add an adapter under a new name.

        Args:
            source: its folder, or an adapted model.
            verify_base: as for `load_adapter`.

        Raises:
            ConfigError: the name is taken, or another adapter uses a module in another way.
            AdapterFileError, BaseMismatchError: as for `load_adapter`.
        """
        if not name or name in self._slots:
            remedy = "choose another, or call replace"
            raise ConfigError(f"the name {name!r} is taken", where="bank.add", remedy=remedy)
        self._write(name, source, verify_base=verify_base)

    def replace(self, name: str, source: Source, *, verify_base: bool = True) -> None:
        """Replace an adapter, as `add` adds one. After an error the old one stays."""
        self._check_names([name], "bank.replace", self.adapters)
        self._write(name, source, verify_base=verify_base)

    def remove(self, name: str) -> None:
        """Remove an adapter and free its slot.

        Raises:
            TargetError: no adapter has this name.
        """
        self._check_names([name], "bank.remove", self.adapters)
        with self._no_batch("bank.remove"):
            del self._slots[name], self._labels[name]

    @contextmanager
    def rows(self, names: Sequence[str], *, strength: Strength = 1.0) -> Iterator[nn.Module]:
        """Let row i of a batch use the adapter `names[i]`, or `base`, inside. Threads take turns.

        Args:
            strength: factor of the update (1 as trained, 0 none), for all rows or one a row. It
                does not change heads, biases and DoRA's magnitudes, like `scaled`.

        Raises:
            TargetError: an unknown name. ConfigError: no names, or wrong strengths.
        """
        where = "bank.rows"
        if isinstance(names, str) or not len(names):
            expected = "a list with one name for each row"
            raise ConfigError(f"found {names!r}", where=where, expected=expected)
        if isinstance(strength, (int, float)):
            strength = [strength] * len(names)
        if len(strength) != len(names) or not all(map(math.isfinite, strength)):
            fault = f"strength is {strength!r} for {len(names)} rows"
            raise ConfigError(fault, where=where, expected="a finite number, or one a row")
        with self._no_batch(where):
            self._check_names(names, where, list(self._slots))
            weight = next(self.model.parameters())
            dtype = torch.promote_types(weight.dtype, torch.float32)
            slots = torch.tensor([self._slots[name] for name in names], device=weight.device)
            factors = torch.tensor(list(strength), device=weight.device, dtype=dtype)
            try:
                self._routing.rows, self._routing.strength = slots, factors
                yield self.model
            finally:
                self._routing.rows = self._routing.strength = None

    @contextmanager
    def disabled(self) -> Iterator[nn.Module]:
        """Make the model the base inside, bit for bit, with or without named rows."""
        with self._lock:
            before, self._routing.enabled = self._routing.enabled, False
            try:
                yield self.model
            finally:
                self._routing.enabled = before

    def unwrap(self) -> nn.Module:
        """Remove all adapters. Return the model as it was before the bank."""
        with self._no_batch("bank.unwrap"):
            for name, layer in self._layers.items():
                replace_module(self.model, name, layer.base)
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(self._required_grad[name])
            self._slots, self._layers = {BASE: BASE_SLOT}, {}
            self._labels = {BASE: self._labels[BASE]}
        return self.model

    @contextmanager
    def _no_batch(self, where: str) -> Iterator[None]:
        """Wait for batches of other threads. Raise ConfigError inside `rows` of this thread."""
        with self._lock:
            if self._routing.rows is not None:
                remedy = "leave `with bank.rows(...)` first"
                raise ConfigError("the rows of a batch are named", where=where, remedy=remedy)
            yield

    def _check_names(self, names: Sequence[str], where: str, known: Sequence[str]) -> None:
        unknown = [name for name in names if name not in known]
        if unknown:
            closest = ", ".join(nearest(str(unknown[0]), known, count=1))
            raise TargetError(
                f"no adapter is called {unknown[0]!r}",
                where=where,
                available=known,
                expected=f"one of {', '.join(known)}" if known else "an adapter that was added",
                remedy=f"nearest: {closest}" if known else "",
            )

    def _write(self, name: str, source: Source, *, verify_base: bool) -> None:
        with self._no_batch("bank.add"):
            load = partial(load_into_shared_copy, verify_base=verify_base)
            shared = load(self.model, source, must_cover=self._must_cover)
            layers = self._layers | self._new_layers(_kinds(shared))
            slot = min(set(range(len(self._slots) + 1)) - set(self._slots.values()))
            size = max(self._size, len({*self._slots, name}) + 1)
            with _undone_after_an_error(self._layers.values()):
                for module_name, layer in layers.items():
                    layer.grow(size)
                    layer.write(slot, shared.model.get_submodule(module_name))
            for module_name in [name for name in layers if name not in self._layers]:
                replace_module(self.model, module_name, layers[module_name])
            self._layers, self._size = layers, size
            self._labels[name], self._slots[name] = shared.labels, slot

    def _new_layers(self, kinds: Mapping[str, type[BankLayer]]) -> dict[str, BankLayer]:
        """Return bank layers for modules that have none. They are not in the model yet.

        Raises:
            ConfigError: a module that another adapter uses in another way.
        """
        new: dict[str, BankLayer] = {}
        for name, kind in kinds.items():
            others = self._layers | new
            nested = [o for o in others if o.startswith(f"{name}.") or name.startswith(f"{o}.")]
            if nested or (name in others and type(others[name]) is not kind):
                other = (nested or [name])[0]
                fault = f"{name} is {_USES[kind]}, and another adapter uses {other} in another way"
                remedy = "serve these adapters from two models"
                raise ConfigError(fault, where="bank.add", remedy=remedy)
            if name not in others:
                options = {} if kind is BankHead else {"rank": self._max_rank}
                module = self.model.get_submodule(name)
                new[name] = kind(module, self._routing, slots=self._size, **options)
        return new


_USES: dict[type[BankLayer], str] = {
    BankLinear: "adapted",
    BankEmbedding: "adapted",
    BankHead: "a head that is trained in full",
}


@contextmanager
def _undone_after_an_error(layers: Iterable[BankLayer]) -> Iterator[None]:
    """Undo growth after an error: growing replaces buffers, so the earlier ones are whole."""
    before = [(layer, layer.slots, dict(layer._buffers)) for layer in layers]
    try:
        yield
    except BaseException:
        for layer, slots, buffers in before:
            layer.slots, layer._buffers = slots, buffers
        raise


def _kinds(shared: SharedCopy) -> dict[str, type[BankLayer]]:
    """Return the class of bank layer for every module that the adapter changes."""
    kinds: dict[str, type[BankLayer]] = dict.fromkeys(shared.config.head_modules or [], BankHead)
    for name, layer in adapter_layers(shared.model).items():
        kinds[name] = BankEmbedding if isinstance(layer.base, nn.Embedding) else BankLinear
    for name in trained_biases(shared.model):
        owner = name.rpartition(".")[0]
        module = shared.model.get_submodule(owner)
        linear = isinstance(module, (AdapterLayer, nn.Linear, NF4Linear)) or stores_in_out(module)
        if not (linear or isinstance(module, nn.LayerNorm)):
            fault = f"the trained bias of a {type(module).__name__} can't stand in a bank"
            raise ConfigError(fault, where=owner)
        kinds.setdefault(owner, BankLinear)
    return kinds
