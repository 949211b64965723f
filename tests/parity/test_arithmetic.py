"""Combined adapters in PEFT: the folder loads there with the same ΔW, and its own exact combination says the same."""

import pytest
import torch
from support.families import logits, tiny

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject
from lora_scratch.arithmetic.operations import combine, recompress
from lora_scratch.arithmetic.update import install_update, take_update
from lora_scratch.serialization import save_adapter
from lora_scratch.testing import move_adapter, relative_error

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft")

CASES = [
    ("distilbert", {}, {"rslora": True, "rank": 3}),
    ("distilbert", {"targets": ["q_lin"]}, {"targets": ["k_lin", "lin2"], "rank": 2}),
    ("roberta", {"rank_pattern": {"query": 2}, "alpha_pattern": {"key": 1.5}}, {}),
    ("gpt2", {"targets": ["c_attn", "wte"]}, {"targets": ["c_attn"], "rank": 2}),
    ("distilbert", {"bias": "lora_only"}, {"bias": "lora_only", "init": "pissa", "rank": 3}),
]
IDS = ["rslora", "other targets", "patterns", "conv1d and embedding", "biases and pissa"]


def adapted(family, options, *, seed, heads=None):
    """Away from its start, the head too."""
    settings = {"rank": 4, "alpha": 6.0, "dropout": 0.0, "head_modules": heads} | options
    model = inject(tiny(family), LoRAConfig(**settings), seed=seed)
    move_adapter(model, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and "lora_" not in name:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize(("family", "first", "second"), CASES, ids=IDS)
def test_a_combined_folder_loads_in_peft_with_the_same_updates(tmp_path, family, first, second, rank):
    """ΔW of every module and the logits: alpha, ranks and patterns in the config are those that the tensors need."""
    update = combine([take_update(adapted(family, o, seed=n)) for n, o in enumerate((first, second))], [0.25, 0.75])
    update = update if rank is None else recompress(update, rank)[0]
    model = install_update(tiny(family), update)
    theirs = peft.PeftModel.from_pretrained(tiny(family), save_adapter(model, tmp_path / "sum")).eval()
    assert relative_error(logits(theirs), logits(model).double()) <= 1e-5
    for name, layer in adapter_layers(model).items():
        delta = theirs.get_submodule(f"base_model.model.{name}").get_delta_weight("default")
        assert relative_error(delta, layer.delta_weight()) <= 1e-5


@pytest.mark.parametrize("weights", [[0.5, 0.5], [2.0, 1.0]], ids=str)
def test_the_sum_is_pefts_combination_of_kind_cat(tmp_path, weights):
    """`add_weighted_adapter(combination_type="cat")` stacks the factors too."""
    models = [adapted("distilbert", {}, seed=seed, heads=[]) for seed in (1, 2)]
    folders = [save_adapter(model, tmp_path / str(n)) for n, model in enumerate(models)]
    theirs = peft.PeftModel.from_pretrained(tiny("distilbert"), folders[0], adapter_name="a")
    theirs.load_adapter(folders[1], adapter_name="b")
    theirs.add_weighted_adapter(["a", "b"], weights, "sum", combination_type="cat")
    ours = install_update(tiny("distilbert"), combine(list(map(take_update, models)), weights))
    for name, layer in adapter_layers(ours).items():
        delta = theirs.get_submodule(f"base_model.model.{name}").get_delta_weight("sum")
        assert relative_error(layer.delta_weight(), delta) <= 1e-5
