"""Compressed adapters in PEFT: ranks and alphas by module, modules left out, and the same function."""

import json

import pytest
import torch
from support.families import logits, tiny

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject
from lora_scratch.arithmetic.truncation import choose_ranks, decompose, truncate
from lora_scratch.arithmetic.update import install_update, take_update
from lora_scratch.serialization import load_adapter, save_adapter
from lora_scratch.testing import move_adapter, relative_error

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft")


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("distilbert", {}),
        ("bert", {"rslora": True}),
        ("distilbert", {"init": "pissa", "rank": 3, "bias": "all"}),
        ("gpt2", {"targets": ["c_attn", "wte", "c_proj"]}),
    ],
    ids=["lora", "rslora", "pissa and biases", "conv1d and embedding"],
)
def test_a_compressed_folder_loads_in_peft_with_the_same_updates(tmp_path, family, options):
    """Modules of different ranks and at least one of rank 0; ΔW and logits are ours, and we read our own folder again."""
    model = inject(tiny(family), LoRAConfig(**{"rank": 4, "alpha": 6.0, "dropout": 0.0} | options), seed=1)
    move_adapter(model, seed=1)
    with torch.no_grad():
        for number, layer in enumerate(adapter_layers(model).values()):
            for tensor in layer.adapter_tensors().values():
                tensor.mul_(0.7**number if family != "gpt2" else 0.3 if number == 0 else 0.8**number)
    update = take_update(model)
    spectra = decompose(update)
    ranks = choose_ranks(spectra, 0.9)
    assert 0 in ranks.values()
    assert len(set(ranks.values())) > 2
    ours = install_update(tiny(family), truncate(update, spectra, ranks)).eval()
    folder = save_adapter(ours, tmp_path / "small")
    assert set(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["rank_pattern"].values()) == set(
        ranks.values()
    ) - {0}
    theirs = peft.PeftModel.from_pretrained(tiny(family), folder).eval()
    assert relative_error(logits(theirs), logits(ours).double()) <= 1e-5
    adapted = {name for name, _ in theirs.named_modules() if name.endswith((".lora_A", ".lora_embedding_A"))}
    assert len({name.rpartition(".")[0] for name in adapted}) == len(adapter_layers(ours))
    for name, layer in adapter_layers(ours).items():
        delta = theirs.get_submodule(f"base_model.model.{name}").get_delta_weight("default")
        assert relative_error(delta, layer.delta_weight()) <= 1e-5
    again = tiny(family)
    load_adapter(again, folder)
    assert torch.equal(logits(again.eval()), logits(ours))
