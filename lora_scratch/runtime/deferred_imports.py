"""Imports that a command which only classifies can do without: put off to their first use, or left out.

The model code of transformers imports torch's compiler for three decorators, and tensors over several
processes and scipy's optimizer for models of other kinds: 800 modules. Without them
`lora-scratch predict ADAPTER "text"` takes 2.2 s instead of 2.9, on two cores of an AMD EPYC.

* scipy, scikit-learn and torch.distributed are optional for transformers. It is told that they are not there.
* torch._dynamo, the compiler, is imported once model code needs more of it than these decorators; and
  by anyone else as usual, after the base is loaded. It then knows what they have marked, but for
  functions marked by `allow_in_graph`, and for functions of torch marked by `disable` that were called
  before. That matters only if someone compiles these functions.

Only commands do this, since they own their process, and alone: several processes use torch.distributed.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo"
ALONE = f"{COMPILER}._trace_wrapped_higher_order_op"  # a submodule that needs no other
# questions to transformers.utils, some of them only in some releases
LEFT_OUT = ("is_scipy_available", "is_sklearn_available", "is_torch_distributed_available")


def defer() -> None:
    """Put these imports off until `resume`, if nothing has made them yet."""
    import transformers.utils

    for module in (transformers.utils, transformers.utils.import_utils):
        for name in LEFT_OUT:
            if hasattr(module, name):
                setattr(module, name, _no)
    if COMPILER not in sys.modules and hasattr(torch, "_disable_dynamo"):
        sys.modules[COMPILER] = _Compiler(find_spec(COMPILER))
        sys.meta_path.insert(0, _Submodules())


def resume() -> None:
    """Let everyone import the compiler as usual, once model code is imported. Do nothing without `defer`."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Submodules)]
    compiler = sys.modules.get(COMPILER)
    if isinstance(compiler, _Compiler):
        compiler.leave()


def _no() -> bool:
    return False


class _Compiler(ModuleType):
    """Stands for torch._dynamo until more of it is needed than decorators."""

    def __init__(self, spec: Any) -> None:
        super().__init__(COMPILER)
        self.__spec__, self.__file__, self.__path__ = spec, spec.origin, spec.submodule_search_locations
        self.disable, self.assume_constant_result, self.allow_in_graph = _disable, _mark_constant, _same

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `inspect` asks every module for some
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(COMPILER), name)

    def leave(self) -> None:
        """Make room for the compiler. Who holds this module gets every name from it."""
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
        for decorator in ("disable", "assume_constant_result", "allow_in_graph"):
            vars(self).pop(decorator, None)


class _Submodules(MetaPathFinder, Loader):
    """Imports the compiler before its submodules, as Python does without a stand-in."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        """Return the spec of a submodule that the compiler has imported; None for Python to load it."""
        compiler = sys.modules.get(COMPILER)
        if not name.startswith(f"{COMPILER}.") or name == ALONE or not isinstance(compiler, _Compiler):
            return None
        compiler.leave()
        importlib.import_module(COMPILER)
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if spec is not None:  # for Python, which would load the module that is there again
            spec.loader, spec.loader_state = self, spec.loader
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module that is there."""
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Give its spec its loader back."""
        spec: Any = module.__spec__
        spec.loader, spec.loader_state = spec.loader_state, None


def _disable(function: Any = None, *recursive: bool, **options: Any) -> Any:
    """Return what disables the compiler when it is called, and imports it only then.

    torch calls this with `wrapping=False` right before it calls the function. No compiler is at work then.
    """
    return function if "wrapping" in options else torch._disable_dynamo(function, *recursive)  # type: ignore[attr-defined]


def _mark_constant(function: Any) -> Any:
    function._dynamo_marked_constant = True
    return function


def _same(function: Any) -> Any:
    return function
