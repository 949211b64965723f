"""Imports that a command which only classifies can do without: put off to their first use, or left out.

The model code of transformers imports torch's compiler for three decorators, and tensors over several
processes and scipy's optimizer for models of other kinds: 800 modules. Without them
`lora-scratch predict ADAPTER "text"` takes 2.2 s instead of 2.9, on two cores of an AMD EPYC.

* scipy, scikit-learn and torch.distributed are optional for transformers. It is told that they are not there.
* torch._dynamo, the compiler, is imported at the first use of something else than these decorators.
  It then knows what they have marked, but for two things that only matter to one who compiles them:
  functions marked by `allow_in_graph`, and functions of torch that were called before, with `disable`.

Only commands do this, since they own their process, and alone: several processes use torch.distributed.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo"
# questions to transformers.utils, some of them only in some releases
LEFT_OUT = ("is_scipy_available", "is_sklearn_available", "is_torch_distributed_available")
DECORATORS = ("disable", "assume_constant_result", "allow_in_graph")


def defer() -> None:
    """Put these imports off, if nothing has made them yet. `resume` ends it for the decorators."""
    import transformers.utils

    for module in (transformers.utils, transformers.utils.import_utils):
        for name in LEFT_OUT:
            if hasattr(module, name):
                setattr(module, name, _no)
    if COMPILER not in sys.modules and hasattr(torch, "_disable_dynamo"):
        sys.modules[COMPILER] = _Compiler(find_spec(COMPILER))


def resume() -> None:
    """Let decorators import the compiler from now on, once model code is imported. Do nothing without `defer`."""
    compiler = sys.modules.get(COMPILER)
    if isinstance(compiler, _Compiler):
        compiler.forget_decorators()


def _no() -> bool:
    return False


class _Compiler(ModuleType):
    """Stands for torch._dynamo until it is used. Its submodules can be imported."""

    def __init__(self, spec: Any) -> None:
        super().__init__(COMPILER)
        self.__spec__, self.__file__, self.__path__ = spec, spec.origin, spec.submodule_search_locations
        self.disable, self.assume_constant_result, self.allow_in_graph = _disable, _mark_constant, _same

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `inspect` asks every module for some
            raise AttributeError(name)
        return getattr(self._imported(), name)

    def forget_decorators(self) -> None:
        """Ask the compiler for them from now on."""
        for name in DECORATORS:
            vars(self).pop(name, None)

    def _imported(self) -> ModuleType:
        """Return the compiler. It gets the submodules that were imported before it."""
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
        compiler = importlib.import_module(COMPILER)
        for name, value in vars(self).items():
            if isinstance(value, ModuleType):
                setattr(compiler, name, value)
        self.forget_decorators()
        return compiler


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
