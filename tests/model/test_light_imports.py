"""`light_imports` keeps what a classifier never calls out of a command, and leaves no stand-in behind."""

import importlib
import json
import subprocess
import sys

import pytest
import torch
from support.saved_adapters import save_task_adapter

from lora_scratch.deploy.classify import Classifier
from lora_scratch.model import light_imports as light
from lora_scratch.runs import open_adapter
from lora_scratch.runtime.precision import resolve_precision

HEAVY = (
    "datasets",
    "pandas",
    "scipy",
    "sklearn",
    "matplotlib",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
)
PROGRAM = """
import json, sys
from lora_scratch.model.light_imports import light_imports
from lora_scratch.runs import open_adapter
from lora_scratch.model.light_imports import _Absent, _StandIn, _decorate
with light_imports():
    saved = open_adapter(sys.argv[1])
from lora_scratch.commands import predict
from lora_scratch.deploy.classify import Classifier
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.precision import resolve_precision
[answer] = Classifier(saved, precision=resolve_precision("fp32", resolve_device("cpu")))(["i am so happy today"])
loaded = [name for name in sys.argv[2:] if name in sys.modules]
left = [name for name, module in sys.modules.items() if isinstance(module, _StandIn)]
def is_stand_in(value):
    absent = value if isinstance(value, type) else type(value)
    return isinstance(value, _StandIn) or value is _decorate or issubclass(absent, _Absent)
bound = [
    (name, key)
    for name, module in list(sys.modules.items()) if name.startswith("torch")
    for key, value in list(vars(module).items()) if is_stand_in(value)
]
import torch, scipy.optimize
from torch.distributed.tensor import DTensor
compiled = torch.compile(lambda x: x + 1, backend="eager")(torch.ones(()))
real = [compiled.item(), DTensor.__module__, callable(scipy.optimize.minimize_scalar)]
print(json.dumps({"loaded": loaded, "left": left, "bound": bound, "real": real, "answer": answer.as_json()}))
"""


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """What a fresh process says after it opened an adapter inside `light_imports` and classified one text."""
    adapter = save_task_adapter(tmp_path_factory.mktemp("light"))
    command = [sys.executable, "-c", PROGRAM, str(adapter), *HEAVY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return adapter, json.loads(done.stdout)


def test_predicting_one_text_imports_nothing_that_it_never_calls(predicted):
    """No data sets, tables, statistics, compiler, distributed tensors or drawing."""
    assert predicted[1]["loaded"] == []


def test_no_stand_in_is_left_behind(predicted):
    """Afterwards no stand-in is in `sys.modules`, and the real modules can be imported and work."""
    assert predicted[1]["left"] == []
    assert predicted[1]["real"] == [2.0, "torch.distributed.tensor", True]


def test_torch_keeps_no_stand_in_but_where_it_handles_shards(predicted):
    """Compiling works afterwards. Sharded states do not, which a command of one process never has."""
    assert {name for name, _ in predicted[1]["bound"] if not name.startswith("torch.distributed.")} == set()


def test_the_answer_is_that_of_all_imports(predicted):
    """The bits of the answer do not depend on what was imported."""
    adapter, found = predicted
    classify = Classifier(open_adapter(adapter), precision=resolve_precision("fp32", torch.device("cpu")))
    [answer] = classify(["i am so happy today"])
    assert answer.as_json() == found["answer"]


def test_a_stand_in_returns_the_decorated_function_and_has_no_instances():
    """With and without arguments; the module is forgotten afterwards, and a module that is there stays itself."""
    with light._stand_ins(("torch._no_such_module", "json")):
        from torch._no_such_module import Kind
        from torch._no_such_module.below import Other

        assert json is sys.modules["json"]
        assert not isinstance(3, Kind)
        assert not isinstance(3, Other)
        assert Kind is sys.modules["torch._no_such_module"].Kind
    assert not [name for name in sys.modules if name.startswith("torch._no_such_module")]
    assert not hasattr(torch, "_no_such_module")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("torch._no_such_module")

    def function():
        return None

    assert light._decorate(function, recursive=False) is function
    assert light._decorate(recursive=False)(function) is function


def test_a_release_that_needs_the_real_modules_gets_them(monkeypatch):
    """Where importing the model code fails with stand-ins, the block runs with none."""
    monkeypatch.setattr(light, "MODEL_CODE", ("lora_scratch.no_such_module",))
    finders = list(sys.meta_path)
    with light.light_imports():
        assert sys.meta_path == finders


def test_several_processes_import_everything(monkeypatch):
    """They may shard the model, which needs distributed tensors."""
    monkeypatch.setattr(light, "world_size", lambda: 2)
    finders = list(sys.meta_path)
    with light.light_imports():
        assert sys.meta_path == finders
