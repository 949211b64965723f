"""lora_scratch/fast/path.py: fast training is plain training, and `plain` turns all of it off."""

from contextlib import suppress

import pytest
import torch
from support.families import record, tiny
from support.machines import MACHINES, playing
from support.tiny import tiny_distilbert, tiny_rows
from torch import nn

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.evaluation import Predictor
from lora_scratch.fast.packed import is_packed
from lora_scratch.fast.path import fast_path
from lora_scratch.layers import LoRALinear
from lora_scratch.model.forward import forward_path
from lora_scratch.runtime.precision import Precision, resolve_precision
from lora_scratch.serialization import fingerprint, load_adapter, save_adapter
from lora_scratch.tasks import measure
from lora_scratch.training import MetricsLog, TrainingConfig, train

CPU = torch.device("cpu")
QUIET = {"pad_token_id": 0, "show_progress": False}


def adapted(*, dropout=0.0):
    return inject(tiny_distilbert(dropout=dropout), LoRAConfig(rank=4, alpha=8, dropout=dropout))


def config(**settings):
    usual = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32", "device": "cpu"}
    return TrainingConfig(**{**usual, **settings})


def levers(model):
    """Which levers are on."""
    own = {type(module) for module in model.modules() if "forward" in vars(module)}
    return nn.Dropout in own, is_packed(model), LoRALinear in own, nn.Linear in own


def test_fast_path_turns_every_lever_on_and_off_again():
    """Inside all of them; outside none, also after an exception."""
    model = adapted(dropout=0.1)
    before = record(model)
    with suppress(KeyError), fast_path(model, Precision(torch.bfloat16, CPU)):
        assert levers(model) == (True,) * 4
        raise KeyError
    assert levers(model) == (False,) * 4
    assert record(model) == before


def test_plain_turns_every_lever_off():
    """The path that people study is the one that runs."""
    model = adapted(dropout=0.1)
    with forward_path(model, Precision(torch.bfloat16, CPU), plain=True):
        assert levers(model) == (False,) * 4


@pytest.mark.parametrize("name", ["AMX", "AVX-512"])
@pytest.mark.parametrize(("dtype", "plain"), [(torch.float32, True), (torch.bfloat16, False), (torch.float32, False)])
def test_only_fast_float32_goes_through_onednn(name, dtype, plain):
    """In training and in prediction, where the machine gains by it and does not round; the switch is put back."""
    model, seen = adapted(), []
    model.classifier.register_forward_hook(lambda *_: seen.append(torch.backends.mkldnn.matmul.fp32_precision))
    with playing(MACHINES[name], dtype):
        before = torch.backends.mkldnn.matmul.fp32_precision
        settings = config(epochs=1, precision=Precision(dtype, CPU).name, plain=plain)
        train(model, tiny_rows(8), tiny_rows(8), settings, **QUIET)
        Predictor(model, Precision(dtype, CPU), 0, plain=plain).logits(tiny_rows(8))
        assert len(seen) == 3
        assert set(seen) == ({"bf16"} if dtype is torch.float32 and not plain and name != "AMX" else {before})
        assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.parametrize("plain", [True, False])
def test_training_and_its_validation_run_on_the_path_that_was_asked_for(plain):
    """Seen from inside a forward pass, in training and in evaluation mode."""
    model, seen = adapted(dropout=0.1), set()
    model.classifier.register_forward_hook(lambda *_: seen.add((model.training, levers(model))))
    train(model, tiny_rows(16), tiny_rows(16), config(epochs=1, precision="bf16", plain=plain), **QUIET)
    on = (not plain,) * 4
    assert seen == {(True, on), (False, on)}
    assert levers(model) == (False,) * 4


def test_fast_training_follows_plain_training_step_by_step_without_dropout():
    """The same losses to 1e-4: nothing but rounding differs, and Adam carries it on."""
    logs = {plain: MetricsLog() for plain in (True, False)}
    for plain, log in logs.items():
        train(adapted(), tiny_rows(), tiny_rows(seed=1), config(plain=plain), log=log, **QUIET)
    losses = {plain: [event["loss"] for event in log.events] for plain, log in logs.items()}
    assert len(losses[True]) == 14
    assert losses[False] == pytest.approx(losses[True], rel=1e-4)


def test_an_adapter_trained_fast_loads_and_measures_the_same_on_the_plain_path(tmp_path):
    """What is saved knows nothing of the path: the base's fingerprint holds, and the metrics are those of training."""
    model, validation = adapted(dropout=0.1), tiny_rows(seed=1)
    prints = fingerprint(model)
    result = train(model, tiny_rows(), validation, config(precision="bf16"), **QUIET)
    assert fingerprint(model) == prints
    save_adapter(model, tmp_path / "adapter", base_model="tiny", base=prints)
    loaded = tiny_distilbert(dropout=0.1)
    load_adapter(loaded, tmp_path / "adapter")
    precision = resolve_precision("bf16", CPU)
    logits = Predictor(loaded.eval(), precision, 0, plain=True).logits(validation)
    assert measure(logits, validation.labels).loss == pytest.approx(result.best.loss, rel=2e-2)


def test_a_family_that_is_not_known_to_pack_trains_with_padding_and_says_so():
    """Cheap dropout stays on; the other two know `nn.Linear` alone, and GPT-2 has none that is frozen."""
    model = inject(tiny("gpt2"), LoRAConfig(rank=4, alpha=8, targets=["c_attn"], dropout=0.1))
    warned = pytest.warns(UserWarning, match="GPT2ForSequenceClassification is computed with padding")
    with warned, fast_path(model, Precision(torch.bfloat16, CPU)):
        assert levers(model) == (True, False, False, False)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("family", ["distilbert", "bert", "roberta"])
def test_recomputing_activations_gives_the_same_gradients(family, plain):
    """`model.gradient_checkpointing_enable()`: every adapter has a gradient, the losses are those without."""
    logs = {}
    for recompute in (False, True):
        model = inject(tiny(family), LoRAConfig(rank=4, alpha=8, dropout=0.0))
        if recompute:
            model.gradient_checkpointing_enable()
        logs[recompute] = MetricsLog()
        train(model, tiny_rows(16), tiny_rows(8), config(plain=plain, learning_rate=1e-2), log=logs[recompute], **QUIET)
    losses = {recompute: [event["loss"] for event in log.events] for recompute, log in logs.items()}
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert losses[True][0] != losses[True][1]
