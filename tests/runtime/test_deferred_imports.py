"""lora_scratch/runtime/deferred_imports.py: a command that only classifies starts without them, and uses them if it must."""

import subprocess
import sys
import types

import pytest
import transformers
from support.folders import save_base

from lora_scratch import __main__ as console
from lora_scratch.runs import command
from lora_scratch.runtime import deferred_imports

PROGRAM = """
import importlib, sys
from importlib.machinery import SourceFileLoader

executed, execute = [], SourceFileLoader.exec_module
SourceFileLoader.exec_module = lambda loader, module: executed.append(module.__name__) or execute(loader, module)
import torch
from lora_scratch.runs import open_base, run_command
from lora_scratch.runtime.deferred_imports import ALONE, COMPILER

HEAVY = (COMPILER + ".convert_frame", "torch.distributed.tensor", "scipy.optimize")
at_start = [name for name in HEAVY if name in sys.modules]  # transformers 5.0 itself imports the second

def imported():
    return [name for name in HEAVY if name in sys.modules and name not in at_start]

def breaks(function):
    "How many graphs the compiler makes of a function around this one: two if it may not trace it."
    from torch._dynamo.testing import CompileCounter
    counter = CompileCounter()
    torch.compile(lambda x: function(x * 2) * 3, backend=counter)(torch.ones(1))
    return counter.frame_count

def main():
    {work}

run_command(main, only_classifies=True)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny classifier."""
    return save_base(tmp_path_factory.mktemp("base"), labels=("a", "b"))


def run(work, base):
    """Do this work, whose assertions hold, in a command of its own."""
    program = PROGRAM.format(work="\n    ".join(work.strip().splitlines()))
    done = subprocess.run([sys.executable, "-c", program, str(base)], capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr


def test_bases_and_their_logits_import_none_of_it(base):
    """Neither the first nor a second one."""
    work = """
for _ in range(2):
    model = open_base(sys.argv[1]).model
    assert model(input_ids=torch.ones(2, 3, dtype=int)).logits.isfinite().all()
    assert not imported(), imported()
"""
    run(work, base)


def test_all_of_it_is_there_afterwards(base):
    """The compiler compiles, knows what was marked before it was imported, and has one copy of every submodule."""
    work = """
before = torch.compiler.disable(lambda x: x + 1)
constant = torch._dynamo.assume_constant_result(lambda: 1)
stand_in = sys.modules[COMPILER]
open_base(sys.argv[1])
early = sys.modules.get(ALONE)
assert not imported()
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
assert breaks(before) == breaks(torch.compiler.disable(lambda x: x + 1)) == 2
assert breaks(lambda x: x + 1) == 1
assert constant._dynamo_marked_constant
real = importlib.import_module(COMPILER)
assert real is sys.modules[COMPILER] is not stand_in
assert all(getattr(stand_in, name) is getattr(real, name) for name in ("disable", "allow_in_graph", "reset"))
from torch._dynamo import _trace_wrapped_higher_order_op as late
assert early is None or early is late
from scipy.optimize import linear_sum_assignment
assert torch.distributed.is_available()
"""
    run(work, base)


NEEDS = {
    "a name": "import torch._dynamo as compiler; assert compiler.config is sys.modules[COMPILER].config",
    "a submodule": "import torch._dynamo.config as config; assert config is sys.modules[COMPILER].config",
    "a name of a submodule": "from torch._dynamo.eval_frame import OptimizedModule",
    "a decorator that compiles": "torch.compile(dynamic=True)(lambda x: x)",
    "the compiler's other half": "import torch._inductor.standalone_compile",
}


@pytest.mark.parametrize("need", NEEDS.values(), ids=NEEDS)
@pytest.mark.parametrize("when", ["while model code is imported", "afterwards"])
def test_what_needs_more_of_the_compiler_gets_all_of_it(need, when, base):
    """ModernBERT of transformers 5.0 compiles as it is imported. Each module is executed once, and keeps its own loader."""
    later = "open_base(sys.argv[1])" if when == "afterwards" else "assert not imported()"
    work = f"""
{later}
{need}
open_base(sys.argv[1])
real = sys.modules[COMPILER]
assert imported() and type(real).__name__ == "module"
parts = [module for name, module in sys.modules.items() if name.startswith(COMPILER + ".")]
assert all(type(part.__spec__.loader) is SourceFileLoader for part in parts if part.__file__.endswith('.py'))
compilers = [name for name in executed if name.startswith(COMPILER)]
assert len(compilers) == len(set(compilers)) > 50
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
assert breaks(torch.compiler.disable(lambda x: x + 1)) == 2
"""
    run(work, base)


@pytest.fixture
def deferred(monkeypatch):
    """Whether `run_command` defers imports, by call; here it does not."""
    calls = []
    monkeypatch.setattr(deferred_imports, "defer", lambda: calls.append(True))
    return calls


def test_only_a_command_that_classifies_and_is_alone_defers(deferred, monkeypatch):
    """Several processes use torch.distributed, and a training the compiler's decorators."""
    command.run_command(lambda: None)
    assert not deferred
    command.run_command(lambda: None, only_classifies=True)
    assert deferred == [True]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        command.run_command(lambda: None, only_classifies=True)
    assert deferred == [True]


@pytest.mark.parametrize(("words", "expected"), [([], True), (["--import", "this_users_module"], False)])
def test_modules_of_the_user_find_all_as_usual(words, expected, monkeypatch):
    """They may use what would be left out."""
    monkeypatch.setitem(sys.modules, "this_users_module", types.ModuleType("this_users_module"))
    monkeypatch.setattr(sys, "argv", ["lora-scratch", *words, "predict", "adapter", "text"])
    found = {}
    monkeypatch.setattr("lora_scratch.runs.run_command", lambda main, **how: found.update(how))
    console.main()
    assert found["only_classifies"] is expected


def test_a_compiler_that_is_there_stays(monkeypatch):
    """Somebody imported it before the command began."""
    for module in (transformers.utils, transformers.utils.import_utils):
        for name in filter(vars(module).get, deferred_imports.LEFT_OUT):
            monkeypatch.setattr(module, name, getattr(module, name))  # to be put back
    compiler = types.ModuleType(deferred_imports.COMPILER)
    monkeypatch.setitem(sys.modules, deferred_imports.COMPILER, compiler)
    deferred_imports.defer()
    deferred_imports.resume()
    assert sys.modules[deferred_imports.COMPILER] is compiler
    assert not transformers.utils.is_scipy_available()
