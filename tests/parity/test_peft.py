"""The same mathematics and the same files as PEFT's, on every family and for everything that both can adapt.

What is compared is built by each library's own means: the peer by `get_peft_model` from a `LoraConfig` written out here.
Only the random numbers are carried over. The peer is installed by the `test` extra; without it these tests are skipped.
"""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.adapter_loading import transformers_loads_adapters
from support.families import logits, tiny, token_batch

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject, merge_all
from lora_scratch.serialization import AdapterContents, load_adapter, save_adapter
from lora_scratch.testing import TOLERANCE, move_adapter, relative_error

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft")

QKV = ["query", "key", "value"]
TARGETS = {
    "distilbert": ["q_lin", "k_lin", "v_lin"],
    "bert": QKV,
    "roberta": QKV,
    "electra": QKV,
    "gpt2": ["c_attn", "c_proj"],
}
HEADS = {"distilbert": ["pre_classifier", "classifier"], "gpt2": ["score"]}
RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-12}

EMBEDDINGS = {"gpt2": "wte"}


def kinds(family):
    """What can be adapted and how, on one family, as our options; Conv1D is what GPT-2 has for linear layers."""
    first, second, *_ = TARGETS[family]
    return {
        "lora": {},
        "rslora": {"rslora": True},
        "dora": {"variant": "dora"},
        "patterns": {"rank_pattern": {first: 2}, "alpha_pattern": {second: 2.5}},
        "bias-lora_only": {"bias": "lora_only"},
        "bias-all": {"bias": "all"},
        "embedding": {"targets": [first, EMBEDDINGS.get(family, "word_embeddings")]},
    }


# (family, our options) by name; a new kind of adapter is a new row
CASES = {f"{family}-{kind}": (family, each) for family in TARGETS for kind, each in kinds(family).items()} | {
    "roberta-dora-rslora": ("roberta", {"variant": "dora", "rslora": True}),
    "distilbert-dora-bias": ("distilbert", {"bias": "lora_only", "variant": "dora"}),
    "distilbert-longer-pattern": ("distilbert", {"rank_pattern": {"q_lin": 2, "layer.1.attention.v_lin": 5}}),
    "electra-second-layer": ("electra", {"layers": [1]}),
    "gpt2-embedding-rslora": ("gpt2", {"rslora": True, "targets": ["c_attn", "wte"]}),
}
every_case = pytest.mark.parametrize(("family", "options"), CASES.values(), ids=CASES)
SOME = ("distilbert", "gpt2")  # Linear and Conv1D; the families between them have the same layers
TRAINED = [
    pytest.param(
        *case, dtype, id=f"{name}-{dtype}", marks=[] if case[0] in SOME and dtype is torch.float64 else pytest.mark.torture
    )
    for name, case in CASES.items()
    for dtype in RELATIVE
]
FIELDS = {"rslora": "use_rslora", "layers": "layers_to_transform"}


def ours(family, *, dtype=torch.float32, **options):
    """Our adapted model, away from its start, alpha different from rank, without dropout."""
    settings = {"rank": 4, "alpha": 6.0, "dropout": 0.0, "targets": TARGETS[family]} | options
    model = inject(tiny(family).to(dtype), LoRAConfig(**settings))
    move_adapter(model)
    return model.to(dtype)


def peft_config(family, *, targets=None, variant="lora", **options):
    """What one would write for PEFT to have the same adapter."""
    same = {FIELDS.get(name, name): value for name, value in options.items()}
    heads = HEADS.get(family, ["classifier"])
    settings = {"r": 4, "lora_alpha": 6, "lora_dropout": 0.0, "fan_in_fan_out": family == "gpt2", "modules_to_save": heads}
    return peft.LoraConfig(**settings, target_modules=targets or TARGETS[family], use_dora=variant == "dora", **same)


def peer(family, model, *, dtype=torch.float32, **options):
    """PEFT's adapted model with the tensors of ours."""
    other = peft.get_peft_model(tiny(family).to(dtype), peft_config(family, **options)).to(dtype).eval()
    values = parameters(model)
    with torch.no_grad():
        for key, parameter in peer_parameters(other).items():
            parameter.copy_(values[key])
    return other


def parameters(model):
    """Our trained parameters by their name in the file."""
    by_memory = {p.data_ptr(): p for p in model.parameters() if p.requires_grad}
    return {key: by_memory[t.data_ptr()] for key, t in AdapterContents.of(model).trained.items()}


def peer_parameters(model):
    """PEFT's trained parameters by the name that PEFT saves them under."""
    named = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "original_module" not in name:
            key = name.replace(".modules_to_save.default.", ".").replace(".default", "")
            named[key.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")] = parameter
    return named


def loss_of(model, *, seed=0):
    """Cross entropy on a seeded batch."""
    return model(**token_batch(seed=seed), labels=torch.tensor([0, 2, 1, 0])).loss


def peer_file(model, folder):
    """What PEFT writes for a model."""
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.mark.parametrize("seed", [0, 7])
@every_case
def test_adapter_starts_at_pefts_numbers_from_the_same_seed(family, options, seed):
    """Init `peft`: every tensor of the new adapter is PEFT's bit for bit, A above all (for embeddings B)."""
    settings = {"rank": 4, "alpha": 6.0, "dropout": 0.0, "targets": TARGETS[family]} | options
    model, plain = inject(tiny(family), LoRAConfig(**settings, init="peft"), seed=seed), tiny(family)
    torch.manual_seed(seed)
    expected = peer_parameters(peft.get_peft_model(plain, peft_config(family, **options)))
    for key, parameter in parameters(model).items():
        if "magnitude" in key:  # nothing random: ‖W‖ by another order of additions
            torch.testing.assert_close(parameter, expected[key], rtol=1e-5, atol=0)
        else:
            assert torch.equal(parameter, expected[key]), key


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@every_case
def test_forward_and_gradients_are_pefts(family, options, dtype):
    """The same trained parameters, logits and gradients: 1e-5 in float32, 1e-12 in float64."""
    model = ours(family, dtype=dtype, **options)
    other = peer(family, model, dtype=dtype, **options)
    assert relative_error(logits(model), logits(other)) <= RELATIVE[dtype]
    loss_of(model).backward()
    loss_of(other).backward()
    gradients, expected = parameters(model), peer_parameters(other)
    assert set(gradients) == set(expected)
    # one scale for all: a gradient that is zero but for rounding (a key's bias under softmax) has no size of its own
    size = torch.cat([p.grad.flatten() for p in expected.values()]).square().mean().sqrt()
    for key, parameter in expected.items():
        difference = (gradients[key].grad - parameter.grad).square().mean().sqrt()
        assert difference <= RELATIVE[dtype] * max(size, parameter.grad.square().mean().sqrt()), key


@pytest.mark.parametrize(("family", "options", "dtype"), TRAINED)
def test_twenty_steps_of_training_follow_pefts(family, options, dtype):
    """The loss of every step, 1e-5 relative in float32 and 1e-12 in float64, from the same start over the same batches."""
    model = ours(family, dtype=dtype, **options).train()
    other = peer(family, model, dtype=dtype, **options).train()
    losses = []
    for each in (model, other):
        optimizer = torch.optim.AdamW([p for p in each.parameters() if p.requires_grad], lr=1e-3)
        steps = []
        for step in range(20):
            optimizer.zero_grad()
            loss = loss_of(each, seed=step)
            loss.backward()
            optimizer.step()
            steps.append(loss.item())
        losses.append(steps)
    assert losses[0] == pytest.approx(losses[1], rel=RELATIVE[dtype])
    assert len(set(losses[0])) == 20


@every_case
def test_files_are_pefts(tmp_path, family, options):
    """For the same tensors the tensor file is PEFT's byte for byte, and the config says the same, field by field."""
    model = ours(family, **options)
    theirs = peer_file(peer(family, model, **options), tmp_path / "theirs")
    mine = save_adapter(model, tmp_path / "ours")
    weights = "adapter_model.safetensors"
    if options.get("bias") == "all":  # PEFT adds copies of the head's biases; what both have is the same
        peers = load_file(theirs / weights)
        own = load_file(mine / weights)
        assert all(torch.equal(own[name], peers[name]) for name in own)
        assert all(".modules_to_save." in name or ".original_module." in name for name in set(peers) - set(own))
    else:
        assert (mine / weights).read_bytes() == (theirs / weights).read_bytes()
    read, expected = (vars(peft.LoraConfig.from_pretrained(str(folder))) for folder in (mine, theirs))
    for name in expected:
        if name not in ("base_model_name_or_path", "task_type", "peft_version", "auto_mapping", "init_lora_weights"):
            assert normal(read[name]) == normal(expected[name]), name


def normal(value):
    """Names without order, and one kind of nothing."""
    return set(value) if isinstance(value, list | set) and value else (value or None)


@every_case
def test_adapters_load_in_both_directions(tmp_path, family, options):
    """Our folder in `PeftModel.from_pretrained`, PEFT's folder in `load_adapter`: the logits of the model that was saved."""
    model = ours(family, **options)
    expected = logits(model)
    theirs = peft.PeftModel.from_pretrained(tiny(family), save_adapter(model, tmp_path / "ours")).eval()
    assert relative_error(logits(theirs), expected.double()) <= RELATIVE[torch.float32]
    back = tiny(family)
    load_adapter(back, peer_file(theirs, tmp_path / "theirs"))
    assert torch.equal(logits(back), expected)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", ["distilbert", "bert", "roberta", "electra"])
def test_transformers_reads_our_folder_itself(tmp_path, family, rslora):
    """`model.load_adapter(folder)`, which fills a plain model of transformers. It leaves trained heads to PeftModel."""
    if not transformers_loads_adapters():
        pytest.skip(f"transformers {transformers.__version__} does not load what PEFT itself saved")
    model = ours(family, rslora=rslora, head_modules=[])
    folder = save_adapter(model, tmp_path / "ours")
    plain = tiny(family)
    plain.load_adapter(str(folder))
    assert relative_error(logits(plain.eval()), logits(model).double()) <= RELATIVE[torch.float32]


@pytest.mark.parametrize(("family", "options"), [case for case in CASES.values() if "bias" not in case[1]], ids=str)
def test_merged_weights_are_pefts(family, options):
    """W + ΔW as `merge_and_unload` computes it, to the house's float32 (DoRA's norm in closed form: 1.3e-6 measured)."""
    model = ours(family, **options)
    other = peer(family, model, **options)
    names = list(adapter_layers(model))
    merge_all(model)
    merged = other.merge_and_unload()
    for name in names:
        found = model.get_submodule(name).merged_weight
        assert relative_error(found, merged.get_submodule(name).weight) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("options", [{"rslora": True}, {"alpha": 12.0}], ids=str)
def test_parity_can_fail(tmp_path, options):
    """The twin: another scaling than PEFT was told is seen in logits and config, though no tensor differs."""
    model = ours("distilbert", **options)
    other = peer("distilbert", model)
    assert relative_error(logits(model), logits(other)) > 1e-3
    mine, theirs = save_adapter(model, tmp_path / "ours"), peer_file(other, tmp_path / "theirs")
    assert (mine / "adapter_model.safetensors").read_bytes() == (theirs / "adapter_model.safetensors").read_bytes()
    read, expected = (json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")) for folder in (mine, theirs))
    assert (read["use_rslora"], read["lora_alpha"]) != (expected["use_rslora"], expected["lora_alpha"])
