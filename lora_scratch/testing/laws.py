r"""The laws of an adapter layer, as functions that take any layer, also one that you wrote, and need no test framework.

    from lora_scratch.testing import check_all

    check_all(lambda: MyLayer(nn.Linear(6, 4), rank=2, alpha=3), torch.randn(5, 6))

A law that does not hold raises `LawError`, an AssertionError that names the law, what was found and what was expected.
`make` gives a fresh layer at each call, its base too, in float32, with whatever dropout and scaling you want proven; `x` is
an input of it. Laws look at the layer as it is made and away from its start (every adapter tensor moved by seeded noise),
since most mistakes multiply by zero where B is zero. They leave torch's global random state alone.

A layer that is not meant to obey a law says so: DoRA's update has no rank bound and is not linear in the scaling, and
its gradient takes the row norm for a constant,

    check_all(make, x, skip=["low_rank", "linear_in_scaling"], constants=["row_norm"])

and LoRA-FA, which trains B alone, `check_all(make, x, frozen=["lora_A.weight"])`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import TypeVar

from torch import Tensor, nn

from ..layers import AdapterLayer
from .evidence import LawError

Make = Callable[[], AdapterLayer]
Law = Callable[..., None]
Check = TypeVar("Check", bound=Callable[..., None])

LAWS: dict[str, Law] = {}  # by the name that `skip` and a LawError use, in the order of `check_all`


def law(check: Check) -> Check:
    """A decorator: `check_zero_start` is the law `zero_start`, and what it raises says so."""
    name = check.__name__.removeprefix("check_")

    @functools.wraps(check)
    def named(*args: object, **options: object) -> None:
        """The check; a law that breaks is told by its name."""
        try:
            check(*args, **options)
        except LawError as error:
            raise LawError(error.found, where=name, expected=error.expected) from error.__cause__
        except Exception as error:  # a layer that fails half-way breaks the law as well
            raise LawError(f"{type(error).__name__}: {error}", where=name, expected="no exception") from error

    LAWS[name] = named
    return named  # type: ignore[return-value]


def check_all(
    make: Make, x: Tensor, *, skip: Collection[str] = (), constants: Collection[str] = (), frozen: Collection[str] = ()
) -> None:
    """Check every law of `LAWS` that is not named in `skip`.

    Args:
        make: gives a fresh layer in float32.
        x: an input of the layer.
        skip: laws that this kind of layer is not meant to obey.
        constants: methods of the layer whose value its gradient takes for a constant by design.
        frozen: adapter tensors that are not trained by design.

    Raises:
        LawError: the first law that is broken.
        ValueError: a name in `skip`, `constants` or `frozen` that there is not, or a `make` that makes nothing new.
    """
    _check_names("law", skip, LAWS)
    layer = _made(make)
    _check_names("adapter tensor", frozen, layer.adapter_tensors())
    _check_names("method", constants, sorted(set(dir(type(layer))) - set(dir(nn.Module))))
    given = {"gradients": {"constants": constants}, "base_frozen": {"frozen": frozen}, "adapter_tensors": {"frozen": frozen}}
    for name, check in LAWS.items():
        if name not in skip:
            check(make, x, **given.get(name, {}))


def _made(make: Make) -> AdapterLayer:
    """A layer, if each call makes a new one."""
    if isinstance(make, nn.Module):
        raise ValueError("make is a layer; expected a function that makes one")
    first, second = make(), make()
    if not isinstance(first, AdapterLayer):
        raise ValueError(f"make gave a {type(first).__name__}; expected an AdapterLayer")
    if first is second or first.base is second.base:
        raise ValueError("make gave the same layer, or the same base, twice; expected a new one at each call")
    return first


def _check_names(kind: str, names: Collection[str], known: Collection[str]) -> None:
    if isinstance(names, str):
        raise ValueError(f"found the word {names!r}; expected a list of names")
    if unknown := sorted(set(names) - set(known)):
        there_are = ", ".join(name for name in known if not name.startswith("_"))
        raise ValueError(f"no such {kind}: {', '.join(unknown)}; there are {there_are}")
