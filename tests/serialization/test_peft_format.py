"""lora_scratch/serialization/peft_format.py: everything that can be adapted goes into PEFT's files and comes out of them."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from support.tiny import tiny_distilbert
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import GPT2Config, GPT2ForSequenceClassification

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject, remove_adapter
from lora_scratch.errors import AdapterFileError
from lora_scratch.serialization import load_adapter, read_provenance, save_adapter
from lora_scratch.serialization.peft_format import from_peft_config, heads_in, stored_config, to_peft_config
from lora_scratch.testing import move_adapter

IDS = torch.randint(1, 60, (3, 7), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


def tiny_gpt2():
    """A GPT-2 of width 32, whose linear layers are Conv1D."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return GPT2ForSequenceClassification(
        GPT2Config(**sizes, num_labels=3, pad_token_id=0, bos_token_id=1, eos_token_id=1)
    ).eval()


@torch.no_grad()
def logits(model):
    """The answer in evaluation mode."""
    return model.eval()(IDS).logits


def adapted(build=tiny_distilbert, **options):
    """Off its start, alpha different from rank."""
    config = LoRAConfig(**{"rank": 4, "alpha": 6.0, "dropout": 0, "targets": ["q_lin", "k_lin"]} | options)
    model = inject(build(), config, batches=[BATCH])
    move_adapter(model)
    return model


CASES = [
    (tiny_distilbert, {}),
    (tiny_distilbert, {"rslora": True, "rank_pattern": {"q_lin": 2}, "alpha_pattern": {"layer.0.*": 2.5}}),
    (tiny_distilbert, {"variant": "dora", "layers": [1]}),
    (tiny_distilbert, {"targets": [r"re:.*\.(q|v)_lin"], "exclude": ["layer.0.attention.v_lin"]}),
    (tiny_distilbert, {"targets": ["all-linear"], "variant": "dora", "bias": "lora_only"}),
    (tiny_distilbert, {"targets": ["q_lin", "word_embeddings"]}),
    (tiny_distilbert, {"init": "gaussian"}),
    (tiny_distilbert, {"init": "orthogonal"}),
    (tiny_distilbert, {"init": "eva"}),
    (tiny_gpt2, {"targets": ["c_attn", "c_fc"]}),
    (tiny_gpt2, {"targets": ["all-linear"], "variant": "dora"}),
]


@pytest.mark.parametrize(("build", "options"), CASES)
def test_file_loads_in_peft_and_comes_back_the_same(build, options, tmp_path):
    """We write, PEFT reads and writes, we read: the same bytes and the same answers."""
    model = adapted(build, **options)
    save_adapter(model, tmp_path / "ours")
    peer = PeftModel.from_pretrained(build(), tmp_path / "ours")
    torch.testing.assert_close(logits(peer), logits(model), rtol=1e-5, atol=1e-5)
    peer.save_pretrained(tmp_path / "theirs")
    files = [(tmp_path / who / "adapter_model.safetensors").read_bytes() for who in ("ours", "theirs")]
    assert files[0] == files[1]
    for who in ("ours", "theirs"):
        again = build()
        load_adapter(again, tmp_path / who)
        assert torch.equal(logits(again), logits(model))
        assert torch.equal(logits(remove_adapter(again)), logits(build()))


@pytest.mark.parametrize(("build", "options"), CASES)
def test_config_says_the_same_as_pefts(build, options, tmp_path):
    """Field by field, sets compared as sets; PEFT adds head names of its own to modules_to_save."""
    save_adapter(adapted(build, **options), tmp_path / "ours")
    PeftModel.from_pretrained(build(), tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    ours, theirs = (
        json.loads((tmp_path / who / "adapter_config.json").read_text(encoding="utf-8")) for who in ("ours", "theirs")
    )
    heads, more = ours.pop("modules_to_save"), theirs.pop("modules_to_save")
    assert set(heads) <= set(more)
    for name, value in ours.items():
        same = sorted(theirs[name]) == sorted(value) if isinstance(value, list) else theirs[name] == value
        assert same, f"{name}: ours {value}, PEFT's {theirs[name]}"


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize(
    ("build", "targets"),
    [(tiny_distilbert, ["q_lin", "lin1"]), (tiny_distilbert, ["k_lin", "word_embeddings"]), (tiny_gpt2, ["c_attn"])],
)
def test_init_peft_draws_pefts_numbers(build, targets, seed):
    """The same seed gives the same A (for embeddings B), bit for bit, in every layer."""
    model = inject(build(), LoRAConfig(rank=4, targets=targets, init="peft"), seed=seed)
    plain = build()
    torch.manual_seed(seed)
    peer = dict(get_peft_model(plain, LoraConfig(r=4, target_modules=targets)).named_parameters())
    for name, layer in adapter_layers(model).items():
        for suffix, tensor in layer.adapter_tensors().items():
            part, _, rest = suffix.partition(".")
            assert torch.equal(tensor, peer[f"base_model.model.{name}.{part}.default" + (f".{rest}" if rest else "")])


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("options", [{}, {"rslora": True}, {"rank_pattern": {"k_lin": 3}, "alpha_pattern": {"q_lin": 5.0}}])
def test_pissa_and_olora_load_anywhere_as_plain_lora(init, options, tmp_path):
    """Twice the rank, the same scaling, on the unchanged base: in PEFT too."""
    model = adapted(init=init, **options)
    save_adapter(model, tmp_path / "a")
    again = tiny_distilbert()
    config = load_adapter(again, tmp_path / "a")
    assert (config.init, config.rank) == ("default", 8)
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(tiny_distilbert(), tmp_path / "a")), logits(model))
    for name, layer in adapter_layers(model).items():
        assert adapter_layers(again)[name].rank == 2 * layer.rank
        assert adapter_layers(again)[name].scaling == pytest.approx(layer.scaling, rel=1e-15)


def test_pissa_is_peft_pissa_without_the_changed_base():
    """The same start and the same function of A and B as PEFT's, which takes B₀A₀ out of the base."""
    model = inject(
        tiny_distilbert(), LoRAConfig(rank=4, alpha=6, dropout=0, targets=["q_lin"], init="pissa", head_modules=[])
    )
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_lin"], init_lora_weights="pissa")
    peer = get_peft_model(tiny_distilbert(), config)
    move_adapter(model)
    for name, layer in adapter_layers(model).items():
        theirs = peer.get_submodule(f"base_model.model.{name}")
        start = layer.start_B @ layer.start_A
        torch.testing.assert_close(
            theirs.lora_B["default"].weight @ theirs.lora_A["default"].weight, start, rtol=1e-4, atol=1e-6
        )
        with torch.no_grad():
            theirs.lora_A["default"].weight.copy_(layer.lora_A)
            theirs.lora_B["default"].weight.copy_(layer.lora_B)
    torch.testing.assert_close(logits(peer), logits(model), rtol=1e-4, atol=1e-5)


def test_stored_config_doubles_what_pissa_needs_and_leaves_others():
    """Rank, alpha and both patterns."""
    config = LoRAConfig(rank=4, alpha=6, init="pissa", rank_pattern={"q": 2}, alpha_pattern={"k": 5.0})
    stored = stored_config(config)
    assert (stored.rank, stored.alpha, stored.rank_pattern, stored.alpha_pattern) == (8, 12, {"q": 4}, {"k": 10.0})
    assert stored_config(LoRAConfig(rank=4)) == LoRAConfig(rank=4)


def test_provenance_keeps_rank_alpha_scaling_and_dtype_of_the_file(tmp_path):
    """Per module, so they are not lost with adapter_config.json; and how the run started."""
    save_adapter(adapted(init="olora", rslora=True, rank_pattern={"k_lin": 3}), tmp_path / "a")
    provenance = read_provenance(tmp_path / "a")
    module = provenance.modules["distilbert.transformer.layer.0.attention.k_lin"]
    assert module["rank"] == 6
    assert module["scaling"] == pytest.approx(6 / 3**0.5)
    assert module["alpha"] / module["rank"] ** 0.5 == pytest.approx(module["scaling"])
    assert provenance.document["dtypes"] == ["float32"]
    assert provenance.document["config"]["init"] == "olora"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "init_lora_weights",
            "pissa",
            "init_lora_weights is 'pissa', for which PEFT changes the base weights.*path_initial_model",
        ),
        ("init_lora_weights", "pissa_niter_16", "PEFT changes the base weights"),
        ("init_lora_weights", "olora", "PEFT changes the base weights"),
        ("init_lora_weights", "loftq", "PEFT changes the base weights"),
        ("lora_bias", True, "lora_bias is True, which is not supported"),
        ("layer_replication", [[0, 2]], "layer_replication"),
        ("layers_pattern", "layer", "layers_pattern"),
        ("some_future_field", {"a": 1}, "some_future_field"),
        ("target_modules", None, "expected a list of names or a regular expression"),
        ("target_modules", [1], "expected a list of names or a regular expression"),
        ("peft_type", "LOHA", "expected 'LORA'"),
        ("bias", "some", "bad or missing field: --bias"),
        ("rank_pattern", {"q": 0}, "bad or missing field: rank_pattern"),
    ],
)
def test_config_of_another_kind_is_refused(field, value, message):
    """Never read as something that it is not."""
    fields = to_peft_config(LoRAConfig(targets=["q"]), base_model="b")
    with pytest.raises(AdapterFileError, match=message):
        from_peft_config({**fields, field: value}, head_modules=[])


def test_config_with_empty_future_fields_is_read():
    """What is empty changes nothing."""
    fields = to_peft_config(LoRAConfig(targets=["q"]), base_model="b")
    assert from_peft_config({**fields, "future": None, "more": {}, "eva_config": {"rho": 2.0}}, head_modules=[]).targets == [
        "q"
    ]


def test_config_goes_there_and_back():
    """Every field that PEFT has a place for."""
    config = LoRAConfig(
        rank=4,
        alpha=2.5,
        dropout=0.2,
        targets=["k", "q"],
        rslora=True,
        head_modules=["head"],
        variant="dora",
        exclude=["re:a.*"],
        layers=[1, 2],
        bias="all",
        rank_pattern={"q": 2},
        alpha_pattern={"q": 3.0},
    )
    assert from_peft_config(json.loads(json.dumps(to_peft_config(config, base_model="b"))), head_modules=["head"]) == config


def test_layer_number_of_peft_may_stand_alone():
    """`layers_to_transform: 3` is [3]."""
    fields = to_peft_config(LoRAConfig(targets=["q"]), base_model="b")
    assert from_peft_config({**fields, "layers_to_transform": 3}, head_modules=[]).layers == [3]
    assert from_peft_config({**fields, "layers_to_transform": 0}, head_modules=[]).layers == [0]


def test_heads_are_told_by_whole_suffixes():
    """A module with `lora_` in its name is a head like others; a norm of which only the bias is there is none."""
    prefix = "base_model.model."
    names = ["a.q.lora_A.weight", "a.q.base_layer.bias", "my.lora_head.weight", "my.lora_head.bias", "a.norm.bias"]
    assert heads_in([prefix + name for name in names], bias="all") == ["my.lora_head"]
    assert heads_in([prefix + name for name in names]) == ["my.lora_head", "a.norm"]


class Draws(TorchFunctionMode):
    """Counts the calls that fill a tensor with random numbers."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.Tensor.uniform_, torch.Tensor.normal_, nn.init.kaiming_uniform_)
        return func(*args, **(kwargs or {}))


def test_loading_draws_no_random_numbers(tmp_path):
    """They would be overwritten at once; a plain injection does draw, which shows that draws are counted."""
    model, again = tiny_distilbert(), tiny_distilbert()
    with Draws() as injecting:
        inject(model, LoRAConfig(rank=4, targets=["q_lin", "word_embeddings"]))
    save_adapter(model, tmp_path / "a")
    with Draws() as loading:
        load_adapter(again, tmp_path / "a")
    assert (injecting.count, loading.count) == (3, 0)


def test_loading_a_dora_adapter_in_evaluation_mode_renews_the_norm(tmp_path):
    """Writing the loaded tensors counts as a change of A and B."""
    model = adapted(variant="dora")
    save_adapter(model, tmp_path / "a")
    again = tiny_distilbert().eval()
    load_adapter(again, tmp_path / "a")
    assert torch.equal(logits(again), logits(model))


class WithStatistics(nn.Module):
    """A linear layer, a batch norm in the body and one in the head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
        self.head = nn.Sequential(nn.Linear(6, 2), nn.BatchNorm1d(2))


STATISTICS = (
    r"^body\.1: running statistics change in training and are no part of the adapter; "
    r"name these modules in head_modules, or keep them in eval\(\)$"
)


def test_running_statistics_outside_the_head_are_warned_of():
    """They change in training and are not in the file; those of a head module are."""
    config = LoRAConfig(rank=2, targets=["body.0"], head_modules=["head"])
    with pytest.warns(UserWarning, match=STATISTICS):
        inject(WithStatistics(), config)


@pytest.mark.filterwarnings("ignore:body.1")
def test_running_statistics_of_the_head_are_saved_and_restored(tmp_path):
    """As its weights are: in the file, off when removed."""
    model = inject(WithStatistics(), LoRAConfig(rank=2, targets=["body.0"], head_modules=["head"]))
    model.head.train()(torch.randn(8, 6) + 3)
    save_adapter(model, tmp_path / "a")
    again = WithStatistics()
    again.body.load_state_dict(remove_adapter(model).body.state_dict())
    load_adapter(again, tmp_path / "a", verify_base=False)
    assert again.head[1].running_mean.abs().sum() > 0
    assert again.head[1].num_batches_tracked == 1
    assert not model.head[1].running_mean.any()
    assert "base_model.model.head.1.running_mean" in load_file(tmp_path / "a" / "adapter_model.safetensors")
