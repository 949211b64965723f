r"""The laws of an adapter layer: functions that check any layer, also your own.

    from lora_scratch.testing import check_all

    check_all(lambda: MyLayer(nn.Linear(6, 4), rank=2, alpha=3), torch.randn(5, 6))

A broken law raises `LawError`, an AssertionError with the name of the law. Every call of `make`
returns a new layer with a new base, in float32, with any dropout and scaling; `x` is an input for it.
The laws check the layer at its start and with noise in every adapter tensor: at B = 0 many mistakes
do not show. torch's global random state is unchanged afterwards.

A layer can be exempt from a law by design. DoRA's update has no bounded rank and is not linear in
the scaling, and its gradient treats the row norm as a constant; LoRA-FA trains B alone:

    check_all(make, x, skip=["low_rank", "linear_in_scaling"], constants=["row_norm"])
    check_all(make, x, frozen=["lora_A.weight"])
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

LAWS: dict[str, Law] = {}  # by the names that `skip` and LawError use, in the order of `check_all`


def law(check: Check) -> Check:
    """Register `check_zero_start` as the law `zero_start`, whose errors have this name."""
    name = check.__name__.removeprefix("check_")

    @functools.wraps(check)
    def named(*args: object, **options: object) -> None:
        """Run the check and put the law's name into its errors."""
        try:
            check(*args, **options)
        except LawError as error:
            raise LawError(error.found, where=name, expected=error.expected) from error.__cause__
        except Exception as error:  # a layer that raises breaks the law too
            fault = f"{type(error).__name__}: {error}"
            raise LawError(fault, where=name, expected="no exception") from error

    LAWS[name] = named
    return named  # type: ignore[return-value]


def check_all(
    make: Make,
    x: Tensor,
    *,
    skip: Collection[str] = (),
    constants: Collection[str] = (),
    frozen: Collection[str] = (),
) -> None:
    """Check every law of `LAWS`.

    Args:
        make: returns a new layer in float32.
        x: an input of the layer.
        skip: laws that do not apply to this layer.
        constants: methods whose value is a constant to the gradient.
        frozen: adapter tensors that are not trained.

    Raises:
        LawError: the first broken law.
        ValueError: an unknown name, or a `make` that does not return a new layer.
    """
    _check_names("law", skip, LAWS)
    layer = _made(make)
    _check_names("adapter tensor", frozen, layer.adapter_tensors())
    _check_names("method", constants, sorted(set(dir(type(layer))) - set(dir(nn.Module))))
    options = {
        "gradients": {"constants": constants},
        "base_frozen": {"frozen": frozen},
        "adapter_tensors": {"frozen": frozen},
    }
    for name, check in LAWS.items():
        if name not in skip:
            check(make, x, **options.get(name, {}))


def _made(make: Make) -> AdapterLayer:
    """Return a layer. Raise ValueError if two calls do not make two new layers."""
    if isinstance(make, nn.Module):
        raise ValueError("make is a layer; expected a function that makes one")
    first, second = make(), make()
    if not isinstance(first, AdapterLayer):
        raise ValueError(f"make gave a {type(first).__name__}; expected an AdapterLayer")
    if first is second or first.base is second.base:
        fault = "make gave the same layer, or the same base, twice"
        raise ValueError(f"{fault}; expected a new one at each call")
    return first


def _check_names(kind: str, names: Collection[str], known: Collection[str]) -> None:
    if isinstance(names, str):
        raise ValueError(f"found the word {names!r}; expected a list of names")
    if unknown := sorted(set(names) - set(known)):
        there_are = ", ".join(name for name in known if not name.startswith("_"))
        raise ValueError(f"no such {kind}: {', '.join(unknown)}; there are {there_are}")
