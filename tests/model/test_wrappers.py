"""lora_scratch/model/wrappers.py: every public function works on the model inside, and no name holds a wrapper's part."""

import json
from functools import partial

import pytest
import torch
from safetensors import safe_open
from support.families import logits, tiny, token_batch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from lora_scratch.adapter import (
    LoRAConfig,
    adapter_layers,
    check_trainable,
    count_parameters,
    disabled,
    dry_run,
    inject,
    is_adapted,
    merge_all,
    merge_and_remove,
    remove_adapter,
    scaled,
    unmerge_all,
    without,
)
from lora_scratch.errors import ConfigError, LoraScratchError
from lora_scratch.model.wrappers import unwrapped
from lora_scratch.serialization import fingerprint, load_adapter, save_adapter


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def compiled(model):
    """The model compiled, without a compiler."""
    return torch.compile(model, backend="eager")


def compiled_in_ddp(model):
    """Both, as people train."""
    return compiled(DistributedDataParallel(model))


@pytest.fixture
def eager():
    """Compiled models run uncompiled: the compiler takes seconds for every switch."""
    with torch.compiler.set_stance("force_eager"):
        yield


CPU = torch.device("cpu")
WRAPPERS = [compiled, nn.DataParallel, DistributedDataParallel, compiled_in_ddp, AveragedModel]
CONFIG = LoRAConfig(rank=2, targets=["all-linear"])


def adapted():
    """An adapted model away from the start."""
    model = inject(tiny("bert"), CONFIG)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def keys(folder):
    """The names in the file."""
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return sorted(file.keys())


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrap", WRAPPERS)
def test_wrapped_model_is_saved_as_the_model_inside(wrap, tmp_path):
    """The same file, settings and digests of the base."""
    model = adapted()
    save_adapter(model, tmp_path / "plain")
    save_adapter(wrap(model), tmp_path / "wrapped")
    for name in ("adapter_model.safetensors", "adapter_config.json", "provenance.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "wrapped" / name).read_bytes()
    load_adapter(other := tiny("bert"), tmp_path / "wrapped")
    assert torch.equal(logits(other), logits(model))


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrap", WRAPPERS)
def test_wrapped_model_is_counted_listed_and_hashed_as_the_model_inside(wrap):
    """Its head, too: by the wrapper's names there was none."""
    model = adapted()
    wrapper = wrap(model)
    assert is_adapted(wrapper)
    assert count_parameters(wrapper) == count_parameters(model)
    assert list(adapter_layers(wrapper)) == list(adapter_layers(model))
    assert fingerprint(wrapper) == fingerprint(model)
    check_trainable(wrapper)


@pytest.mark.usefixtures("one_process", "eager")
@pytest.mark.parametrize("wrap", WRAPPERS)
def test_switches_and_merging_reach_the_model_inside(wrap):
    """And what the wrapper computes."""
    base, model = logits(tiny("bert")), adapted()
    trained, wrapper = logits(model), wrap(model)
    with disabled(wrapper):
        assert torch.equal(logits(wrapper), base)
    with scaled(wrapper, 0.0), without(wrapper, list(adapter_layers(wrapper))[:1]):
        assert not torch.equal(logits(wrapper), trained)
    merge_all(wrapper)
    assert torch.allclose(logits(wrapper), trained, atol=1e-5)
    unmerge_all(wrapper)
    assert torch.equal(logits(wrapper), trained)
    assert merge_and_remove(wrapper) is wrapper
    assert not is_adapted(wrapper)
    assert torch.allclose(logits(wrapper), trained, atol=1e-5)


@pytest.mark.usefixtures("one_process", "eager")
@pytest.mark.parametrize("wrap", WRAPPERS)
def test_adapter_is_removed_from_the_model_inside(wrap):
    """Bit for bit."""
    wrapper = wrap(adapted())
    assert torch.equal(logits(remove_adapter(wrapper)), logits(tiny("bert")))


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel])
def test_compiled_model_that_has_run_is_adapted_and_compiled_again(wrap, tmp_path):
    """The wrapper computes what the model inside computes, before and after."""

    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).eval()

    config = LoRAConfig(rank=2, targets=["0"], head_modules=["2"])
    x, model = torch.randn(2, 4), network()
    wrapper = wrap(model)
    before = wrapper(x)
    assert str(dry_run(wrapper, config)) == str(dry_run(model, config))
    assert inject(wrapper, config) is wrapper
    assert torch.equal(wrapper(x), before)
    with torch.no_grad():
        model[0].lora_B.add_(0.3)
    assert torch.equal(wrapper(x), model(x))
    assert not torch.equal(wrapper(x), before)
    save_adapter(wrapper, tmp_path / "adapter")
    other = wrap(network())
    load_adapter(other, tmp_path / "adapter")
    assert torch.equal(other(x), model(x))


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrap", [DistributedDataParallel, compiled_in_ddp])
def test_distributed_model_is_not_adapted(wrap, tmp_path):
    """It sums the gradients of the parameters it was made with: those of A and B would differ between processes."""
    wrapper = wrap(tiny("bert"))
    with pytest.raises(ConfigError, match="inject into the model first, then wrap it"):
        inject(wrapper, CONFIG)
    assert not is_adapted(wrapper)


@pytest.mark.usefixtures("one_process")
def test_adapted_model_trains_inside_ddp_in_bfloat16():
    """The hooks of a float32 head and their empty buffer do not disturb it."""
    wrapper = DistributedDataParallel(inject(tiny("bert").bfloat16(), CONFIG))
    for _ in range(2):
        wrapper(**token_batch(), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert all(p.grad is not None for p in wrapper.parameters() if p.requires_grad)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("split", [fully_shard, partial(FullyShardedDataParallel, use_orig_params=True, device_id=CPU)])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_adapter_that_is_split_over_processes_is_not_saved(split, tmp_path):
    """Every process has a part of each tensor, or another name for it: one line says so."""
    with pytest.raises(LoraScratchError, match=r"save_adapter: the adapter is split over the processes \(FSDP\)"):
        save_adapter(split(adapted()), tmp_path / "adapter")


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("wrap", [compiled, checkpoint_wrapper])
def test_wrapped_parts_of_a_model_do_not_show_in_names(wrap, tmp_path):
    """A compiled block, a compiled head, a checkpointed encoder."""
    model = adapted()
    save_adapter(model, tmp_path / "plain")
    expected, base = logits(model), logits(tiny("bert"))
    model.bert = wrap(model.bert)
    model.classifier = wrap(model.classifier)
    save_adapter(model, tmp_path / "wrapped")
    assert keys(tmp_path / "wrapped") == keys(tmp_path / "plain")
    records = [(tmp_path / name / "provenance.json").read_text(encoding="utf-8") for name in ("plain", "wrapped")]
    modules = [json.loads(record)["modules"] for record in records]
    assert modules[0] == modules[1]
    assert torch.equal(logits(model), expected)
    with disabled(model):
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(remove_adapter(model)), base)


def test_model_with_wrapped_parts_is_adapted_before_they_are_wrapped():
    """One line says so; else the wrapper would be a part of the names."""
    model = tiny("bert")
    model.bert = compiled(model.bert)
    with pytest.raises(ConfigError, match="bert is wrapped in OptimizedModule; inject first, then compile or wrap"):
        inject(model, CONFIG)


def test_model_of_ones_own_with_a_child_called_module_keeps_its_names():
    """Only known wrappers are seen through."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(4, 4)

    net = inject(Net(), LoRAConfig(rank=2, targets=["module"], head_modules=[]))
    assert unwrapped(net) is net
    assert list(adapter_layers(net)) == ["module"]
