"""The whole job on a tiny random model of every family: open, adapt by default, train, predict, save, load, merge, PEFT.

The suite takes five of them; `pytest -m torture` takes all.
"""

from dataclasses import replace

import pytest
import torch
import transformers
from support.tiny_models import CONFIGS, save_tiny

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject, merge_and_remove
from lora_scratch.data import encode
from lora_scratch.deploy.formats import write_plain
from lora_scratch.evaluation import Predictor, linear_probe
from lora_scratch.model.families import FAMILIES
from lora_scratch.runs import open_base
from lora_scratch.runs.loading import resolve_adapter
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.serialization import load_adapter, save_adapter
from lora_scratch.training import TrainingConfig, train

SAMPLE = ("bert", "deberta-v2", "modernbert", "xlnet", "gpt2")
LABELS = ("bad", "good", "odd")
TEXTS = (
    "the film is good",
    "bad",
    "a very dull plot and the actor is not so bright",
    "great story",
    "the film ends well and the plot is great so the actor is happy",
    "awful",
    "not so good",
    "sad but bright",
)
every_family = pytest.mark.parametrize(
    "family", [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.torture) for name in FAMILIES]
)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
CPU = resolve_precision("fp32", torch.device("cpu"))


def rows(base, *, repeats=1):
    """The texts with one label after the other."""
    texts = TEXTS * repeats
    labels = torch.arange(len(texts)) % len(LABELS)
    return encode(texts, labels, base.tokenizer, max_tokens=40)


def predictor(base, **options):
    """Predict on the CPU in float32."""
    return Predictor(base.model, CPU, base.pad_token_id, **options)


def single(model, encoded):
    """The logits of every row alone, by the model's own code."""
    parts = encoded.tokens.split(encoded.lengths.tolist())
    with torch.no_grad():
        return torch.cat(
            [model(input_ids=p[None].long(), attention_mask=torch.ones(1, len(p)).long()).logits for p in parts]
        )


def close(first, second):
    """Equal up to float32's rounding in a small model."""
    return bool(((first - second).abs().max() <= 2e-5 * second.abs().max()).item())


def test_there_is_a_tiny_model_of_every_family():
    """The table of the tests and that of the package have the same lines."""
    assert CONFIGS.keys() == FAMILIES.keys()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """Return a function that opens, trains and saves a family's default adapter once."""
    done = {}

    def job(family):
        if family not in done:
            folder = save_tiny(family, tmp_path_factory.mktemp(family))
            base = open_base(str(folder), labels=LABELS)
            before = predictor(base).logits(rows(base))
            inject(base.model, resolve_adapter(base, LoRAConfig(rank=4, alpha=16, dropout=0.0)))
            settings = TrainingConfig(epochs=1, batch_size=4, learning_rate=1e-2, precision="fp32", device="cpu")
            encoded = rows(base, repeats=3)
            train(base.model, encoded, encoded, settings, pad_token_id=base.pad_token_id, show_progress=False)
            base.model.eval()
            save_adapter(base.model, folder / "adapter", base_model=str(folder))
            done[family] = folder, base, before
        return done[family]

    return job


@every_family
def test_default_targets_are_found_and_training_moves_all_of_them(family, adapted):
    """Training itself checks after three steps that every adapter tensor has changed and nothing else."""
    _, base, before = adapted(family)
    assert adapter_layers(base.model)
    after = predictor(base).logits(rows(base))
    assert not torch.allclose(before, after, atol=1e-4)


@every_family
def test_a_row_has_the_same_logits_alone_and_in_any_batch(family, adapted):
    """In the fast path, in the plain one, and by the model's own code without padding."""
    _, base, _ = adapted(family)
    encoded = rows(base)
    expected = single(base.model, encoded)
    for plain in (False, True):
        assert close(predictor(base, plain=plain).logits(encoded), expected), plain


@every_family
def test_a_saved_adapter_gives_the_same_logits_in_a_base_opened_again(family, adapted):
    """The labels and the head come with it."""
    folder, base, _ = adapted(family)
    other = open_base(str(folder), labels=LABELS)
    load_adapter(other.model, folder / "adapter", must_cover=other.newly_initialized)
    assert torch.equal(predictor(other).logits(rows(other)), predictor(base).logits(rows(base)))


@every_family
def test_pefts_logits_are_ours(family, adapted):
    """PEFT loads the folder into transformers' own model."""
    peft = pytest.importorskip("peft")
    folder, base, _ = adapted(family)
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(LABELS))
    peer = peft.PeftModel.from_pretrained(plain, str(folder / "adapter")).eval()
    assert close(single(peer, rows(base)), predictor(base).logits(rows(base)))


@every_family
def test_the_merged_model_reads_back_with_transformers_alone(family, adapted, tmp_path):
    """An export has the adapter in its weights, and the padding token in its config."""
    folder, adapted_base, _ = adapted(family)
    expected = predictor(adapted_base).logits(rows(adapted_base))
    base = open_base(str(folder), labels=LABELS)
    load_adapter(base.model, folder / "adapter")
    write_plain(replace(base, model=merge_and_remove(base.model)), tmp_path, form="transformers")
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert plain.config.id2label == dict(enumerate(LABELS))
    assert plain.config.problem_type == "single_label_classification"
    assert plain.config.pad_token_id == base.pad_token_id
    assert close(single(plain, rows(base)), expected)


@every_family
def test_all_linear_at_rank_4_trains_every_layer_that_it_adapts(family, tmp_path):
    """Layers without effect, such as ESM's contact head and Longformer's last queries, are left out."""
    folder = save_tiny(family, tmp_path)
    base = open_base(str(folder), labels=LABELS)
    inject(base.model, resolve_adapter(base, LoRAConfig(targets=["all-linear"], rank=4, alpha=16, dropout=0.0)))
    settings = TrainingConfig(epochs=1, batch_size=4, learning_rate=1e-2, precision="fp32", device="cpu", head_start="probe")
    encoded = rows(base, repeats=3)
    train(base.model, encoded, encoded, settings, pad_token_id=base.pad_token_id, show_progress=False)


@every_family
def test_probe_features_do_not_depend_on_the_batch(family, tmp_path):
    """The probe's logits of a row alone and among others are the same."""
    base = open_base(str(save_tiny(family, tmp_path)), labels=LABELS)
    encoded = rows(base)
    together = linear_probe(predictor(base), encoded, encoded)
    alone = linear_probe(predictor(base), encoded, encoded.select([1]))
    assert together.shape == (len(TEXTS), len(LABELS))
    torch.testing.assert_close(alone[0], together[1], rtol=1e-3, atol=1e-4)
