"""Import transformers' model code without the packages that a classifier never calls.

`transformers.modeling_utils` imports torch's compiler, distributed tensors, scipy and scikit-learn, for
decorators, type checks and the losses of other tasks. For its table of contents it reads all its model files.
Inside `light_imports` these modules are stand-ins: their decorators return the function, and nothing is an
instance of their classes. Afterwards an import gives the real modules; but transformers, and torch's code for
sharded states, keep the stand-ins that they have bound. So this is for commands that never shard.

Worth: with transformers 5.23 and torch 2.13 `predict ADAPTER "text"` takes 3.5 s of CPU time instead of 5.0. sympy
stays: torch imports it to lay a new model out on the meta device.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ..runtime.distributed import world_size

COMPILER = "torch._dynamo"
UNUSED = (COMPILER, "torch.distributed.tensor", "torch.distributed.fsdp", "torch.distributed._composable")
OF_OTHER_TASKS = ("scipy", "sklearn")  # of transformers' losses and generation; this project calls them
NEEDED = "torch._dynamo._trace_wrapped_higher_order_op"  # of transformers' masks
CONTENTS = "transformers.models"  # empty, it still finds its modules by their full names
MODEL_CODE = ("transformers.modeling_utils", "transformers.modeling_layers", "transformers.models.auto.modeling_auto")


@contextmanager
def light_imports() -> Iterator[None]:
    """Open a model inside with fewer imports. For commands that shard nothing.

    Several processes, which may shard, import everything, and so does a release of transformers that calls a stand-in.
    """
    if world_size() > 1:
        yield
        return
    try:
        with _stand_ins((*UNUSED, *OF_OTHER_TASKS)):
            for name in MODEL_CODE:
                import_module(name)
    except Exception:  # whatever such a release raises: it gets the real modules
        yield
        return
    with _stand_ins(UNUSED):
        yield


@contextmanager
def _stand_ins(names: Sequence[str]) -> Iterator[None]:
    """Import stand-ins for modules that are not there yet inside. Afterwards forget them."""
    finder = _Finder(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _StandIn)]:
            parent, _, child = name.rpartition(".")
            vars(sys.modules.get(parent, finder)).pop(child, None)
            del sys.modules[name]


class _Absent:
    """A class that nothing is an instance of but what a stand-in makes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass


class _StandIn(ModuleType):
    """A module that has every name: decorators for the compiler, else classes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        of_compiler = self.__name__.startswith(COMPILER)
        value = _decorate if of_compiler else type(name, (_Absent,), {})
        setattr(self, name, value)
        return value


class _Finder(MetaPathFinder, Loader):
    """Finds stand-ins for `names` and all below, and the table of contents without its contents."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of a package, so that modules below it are found too."""
        unused = any(f"{fullname}.".startswith(f"{name}.") for name in self.names) and fullname != NEEDED
        if not unused and fullname != CONTENTS:
            return None
        spec = ModuleSpec(fullname, self, is_package=True)
        spec.submodule_search_locations = [os.path.join(place, fullname.rpartition(".")[2]) for place in path or ()]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return a stand-in, and a plain module for the table of contents, which stays."""
        return None if spec.name == CONTENTS else _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: there is no code."""


def _decorate(function: Callable[..., Any] | None = None, *args: Any, **options: Any) -> Callable[..., Any]:
    """Return the function that is decorated, or what returns it."""
    return function or _decorate
