"""Many adapters of one base in one model: each row of a batch names its own, and they come and go while it serves.

    bank = AdapterBank(model, capacity=8)             # a plain model; it is changed in place, and answers as before
    bank.add("emotion", "runs/emotion/adapter")       # a folder, or a model with an adapter in it
    bank.add("topic", "runs/topic/adapter")
    with bank.rows(["emotion", "base", "topic"]):
        logits = model(**batch).logits                # (3, widest); -inf where a row's head has no such label
    bank.replace("topic", "runs/topic-2/adapter")
    bank.remove("emotion")

The mathematics is in deploy/bank_layers.py. A new adapter is read as `load_adapter` reads it, every check included, into a twin of
the base that shares its memory; only a twin that is in order is copied into a free slot, and only a slot that is written
gets a name. So whatever fails leaves the bank as it was.

LoRA of any rank, rsLoRA and DoRA on Linear and Conv1D, LoRA on Embedding, pissa and olora (stored as LoRA), trained heads
and trained biases of Linear, Conv1D and LayerNorm can stand side by side, also on a four-bit base. A name used in two ways
(LoRA on a module that is another adapter's head) is refused.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ..adapter.inject import replace_module
from ..adapter.state import adapter_layers, is_adapted, trained_biases
from ..adapter.targets import nearest
from ..errors import ConfigError, TargetError
from ..layers import AdapterLayer, NF4Linear, stores_in_out
from .bank_head import BankHead
from .bank_layers import BASE_SLOT, BankEmbedding, BankLayer, BankLinear, Routing
from .shared_copy import SharedCopy, load_into_shared_copy, own_labels

BASE = "base"


class AdapterBank:
    """N adapters in one model.

    Args:
        model: a plain model. Its layers are wrapped in place as adapters need them, and it is frozen.
        capacity: how many adapters there is room for from the start.
        max_rank: the ranks that there is room for from the start.
        must_cover: parameters with random values (a fresh head): each adapter's file has to hold them.

    An adapter that needs more room than there is gets it; the shapes change, and a compiled model is compiled once more.

    Raises:
        ConfigError: a model with an adapter or a bank already, or no room.
    """

    def __init__(self, model: nn.Module, *, capacity: int = 8, max_rank: int = 8, must_cover: Collection[str] = ()) -> None:
        for flag, value in (("capacity", capacity), ("max_rank", max_rank)):
            if value < 1:
                raise ConfigError(f"{flag} is {value}", where="AdapterBank", expected="at least 1")
        if is_adapted(model) or any(isinstance(module, BankLayer) for module in model.modules()):
            raise ConfigError("the model has an adapter or a bank already", where="AdapterBank", expected="a plain model")
        self.model, self._max_rank, self._must_cover = model, max_rank, must_cover
        self._size = capacity + 2  # the base's slot, and a spare one in which a replacement is written
        self._slots = {BASE: BASE_SLOT}
        self._labels = {BASE: own_labels(model)}
        self._layers: dict[str, BankLayer] = {}
        self._routing, self._lock = Routing(), threading.RLock()
        self._required_grad = {name: p.requires_grad for name, p in model.named_parameters()}
        model.requires_grad_(False)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters, in the order they came; `base` can be named as well."""
        return tuple(name for name in self._slots if name != BASE)

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The label names of the base and of each adapter, in the order of the logits."""
        return dict(self._labels)

    def add(self, name: str, source: str | Path | nn.Module, *, verify_base: bool = True) -> None:
        """Take an adapter in under a new name.

        Args:
            source: its folder, or a model that is adapted.
            verify_base: as for `load_adapter`.

        Raises:
            ConfigError: the name is taken, or a module is used in another way by another adapter.
            AdapterFileError, BaseMismatchError: as for `load_adapter`. Nothing has changed then.
        """
        if not name or name in self._slots:
            raise ConfigError(f"the name {name!r} is taken", where="bank.add", remedy="choose another, or call replace")
        self._write(name, source, verify_base=verify_base)

    def replace(self, name: str, source: str | Path | nn.Module, *, verify_base: bool = True) -> None:
        """Put another adapter in the place of this one; as `add` otherwise. After an error the old one stands."""
        self._check_names([name], "bank.replace", self.adapters)
        self._write(name, source, verify_base=verify_base)

    def remove(self, name: str) -> None:
        """Let go of an adapter; its slot is free.

        Raises:
            TargetError: no adapter has this name.
        """
        self._check_names([name], "bank.remove", self.adapters)
        with self._no_batch("bank.remove"):
            del self._slots[name], self._labels[name]

    @contextmanager
    def rows(self, names: Sequence[str], *, strength: float | Sequence[float] = 1.0) -> Iterator[nn.Module]:
        """Inside, row i of the batch goes through the adapter `names[i]`, or `base`. Threads take turns.

        Args:
            names: one a row.
            strength: how strong each row's update is, 1 as trained and 0 none, for all rows or one a row. As in `scaled`,
                heads, biases and DoRA's magnitudes stay as they are.

        Raises:
            TargetError: a name that is not there. ConfigError: no names, not as many strengths, or one that is not finite.
        """
        if isinstance(names, str) or not len(names):
            raise ConfigError(f"found {names!r}", where="bank.rows", expected="a list with one name for each row")
        strengths = [strength] * len(names) if isinstance(strength, (int, float)) else list(strength)
        if len(strengths) != len(names) or not all(math.isfinite(value) for value in strengths):
            raise ConfigError(
                f"strength is {strength!r} for {len(names)} rows",
                where="bank.rows",
                expected="a finite number, or one a row",
            )
        with self._no_batch("bank.rows"):
            self._check_names(names, "bank.rows", list(self._slots))
            weight = next(self.model.parameters())
            dtype = torch.promote_types(weight.dtype, torch.float32)
            try:
                self._routing.rows = torch.tensor([self._slots[name] for name in names], device=weight.device)
                self._routing.strength = torch.tensor(strengths, device=weight.device, dtype=dtype)
                yield self.model
            finally:
                self._routing.rows = self._routing.strength = None

    @contextmanager
    def disabled(self) -> Iterator[nn.Module]:
        """Inside, the model is the base, bit for bit, whether rows are named or not."""
        with self._lock:
            before = self._routing.enabled
            try:
                self._routing.enabled = False
                yield self.model
            finally:
                self._routing.enabled = before

    def unwrap(self) -> nn.Module:
        """Let go of all adapters and give the model back as it was before the bank."""
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
        """Other threads wait for a batch to be done; inside the batch's own `with` this is a mistake."""
        with self._lock:
            if self._routing.rows is not None:
                raise ConfigError("the rows of a batch are named", where=where, remedy="leave `with bank.rows(...)` first")
            yield

    def _check_names(self, names: Sequence[str], where: str, known: Sequence[str]) -> None:
        unknown = [name for name in names if name not in known]
        if unknown:
            raise TargetError(
                f"no adapter is called {unknown[0]!r}",
                where=where,
                available=known,
                expected=f"one of {', '.join(known)}" if known else "an adapter that was added",
                remedy=f"nearest: {', '.join(nearest(str(unknown[0]), known, count=1))}" if known else "",
            )

    def _write(self, name: str, source: str | Path | nn.Module, *, verify_base: bool) -> None:
        with self._no_batch("bank.add"):
            twin = load_into_shared_copy(self.model, source, verify_base=verify_base, must_cover=self._must_cover)
            layers = self._layers | self._new_layers(_kinds(twin))
            slot = min(set(range(len(self._slots) + 1)) - set(self._slots.values()))
            size = max(self._size, len({*self._slots, name}) + 1)
            with _undone_after_an_error(self._layers.values()):
                for each, layer in layers.items():
                    layer.grow(size)
                    layer.write(slot, twin.model.get_submodule(each))
            for each, layer in layers.items():
                if each not in self._layers:
                    replace_module(self.model, each, layer)
            self._layers, self._size, self._labels[name], self._slots[name] = layers, size, twin.labels, slot

    def _new_layers(self, kinds: Mapping[str, type[BankLayer]]) -> dict[str, BankLayer]:
        """A bank layer for every module that has none yet, not put into the model.

        Raises:
            ConfigError: a module that another adapter uses in another way.
        """
        new: dict[str, BankLayer] = {}
        for name, kind in kinds.items():
            others = self._layers | new
            inside = [each for each in others if each.startswith(f"{name}.") or name.startswith(f"{each}.")]
            if inside or (name in others and type(others[name]) is not kind):
                raise ConfigError(
                    f"{name} is {_USES[kind]}, and another adapter uses {(inside or [name])[0]} in another way",
                    where="bank.add",
                    remedy="serve these adapters from two models",
                )
            if name not in others:
                options = {} if kind is BankHead else {"rank": self._max_rank}
                new[name] = kind(self.model.get_submodule(name), self._routing, slots=self._size, **options)
        return new


_USES: dict[type[BankLayer], str] = {
    BankLinear: "adapted",
    BankEmbedding: "adapted",
    BankHead: "a head that is trained in full",
}


@contextmanager
def _undone_after_an_error(layers: Iterable[BankLayer]) -> Iterator[None]:
    """Room that was made is given back: growing replaces buffers, so the ones of before are whole."""
    before = [(layer, layer.slots, dict(layer._buffers)) for layer in layers]
    try:
        yield
    except BaseException:
        for layer, slots, buffers in before:
            layer.slots, layer._buffers = slots, buffers
        raise


def _kinds(twin: SharedCopy) -> dict[str, type[BankLayer]]:
    """How the bank has to wrap each module that the twin's adapter changes."""
    layers = adapter_layers(twin.model)
    kinds: dict[str, type[BankLayer]] = dict.fromkeys(twin.config.head_modules or [], BankHead)
    for name, layer in layers.items():
        kinds[name] = BankEmbedding if isinstance(layer.base, nn.Embedding) else BankLinear
    for name in trained_biases(twin.model):
        owner = name.rpartition(".")[0]
        module = twin.model.get_submodule(owner)
        known = isinstance(module, (AdapterLayer, nn.Linear, NF4Linear, nn.LayerNorm)) or stores_in_out(module)
        if not known:
            raise ConfigError(f"the trained bias of a {type(module).__name__} can't stand in a bank", where=owner)
        kinds.setdefault(owner, BankLinear)
    return kinds
