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
import torch
from lora_scratch.runs import open_base, run_command
from lora_scratch.runtime.deferred_imports import COMPILER, DECORATORS

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
open_base(sys.argv[1])
stand_in, early = sys.modules[COMPILER], sys.modules.get(COMPILER + "._trace_wrapped_higher_order_op")
assert not imported()
assert breaks(before) == breaks(torch.compiler.disable(lambda x: x + 1)) == 2
assert breaks(lambda x: x + 1) == 1
assert constant._dynamo_marked_constant
real = importlib.import_module(COMPILER)
assert real is sys.modules[COMPILER] is not stand_in
assert all(getattr(stand_in, name) is getattr(real, name) for name in (*DECORATORS, "reset"))
assert early is None or early is real._trace_wrapped_higher_order_op
from scipy.optimize import linear_sum_assignment
assert torch.distributed.is_available()
"""
    run(work, base)


def test_another_name_than_the_decorators_imports_the_compiler(base):
    """Model code of another release may use one."""
    work = """
import torch._dynamo as compiler
assert not imported() and compiler.config.cache_size_limit and imported()
assert sys.modules[COMPILER] is not compiler and compiler.disable is sys.modules[COMPILER].disable
open_base(sys.argv[1])
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
