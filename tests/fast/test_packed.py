"""lora_scratch/fast/packed.py: a packed pass is the padded pass, in logits and every gradient, for any shape of batch."""

from contextlib import suppress

import pytest
import torch
import transformers
from support.families import tiny
from support.machines import MACHINES, playing
from support.passes import adapted, batch_of, largest_difference, logits_and_gradients
from support.tiny import tiny_distilbert

from lora_scratch.fast.packed import NAME, can_pack, packed
from lora_scratch.model.forward import classify

FAMILIES = ["distilbert", "bert", "roberta", "electra", "xlm-roberta", "camembert", "ernie"]
LENGTHS = {
    "uneven": [7, 3, 5, 2, 7, 4],
    "one row": [5],
    "one token each": [1, 1, 1],
    "only [CLS] and [SEP]": [2, 2, 2, 2],
    "all equal": [6, 6, 6],
    "one very long row": [2, 60, 3],
    "longest last": [1, 2, 3],
}


def checkpoint_activations(model):
    """`gradient_checkpointing_enable` has another name from transformers 5.23 on."""
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_packed_logits_and_gradients_are_the_padded_ones(family, lengths):
    """Float32, no dropout: within 1e-5 of the largest entry, for logits and every gradient."""
    model, batch = adapted(family), batch_of(lengths)
    expected = logits_and_gradients(model, batch)
    with packed(model):
        assert largest_difference(logits_and_gradients(model, batch), expected) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("trained", ["adapter", "every weight"])
def test_fillers_change_no_logit_and_no_gradient(family, lengths, trained, monkeypatch):
    """What matrix registers ask for, in float32 on any CPU: 64 tokens where the rows have 3 to 65."""
    model, batch = (adapted if trained == "adapter" else tiny)(family).train(), batch_of(lengths)
    for name, parameter in model.named_parameters() if trained == "every weight" else ():
        parameter.requires_grad_("pooler" not in name or family == "bert")
    seen, expected = [], logits_and_gradients(model, batch)
    model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape))
    monkeypatch.setattr("lora_scratch.fast.packed.rows_multiple", lambda dtype: 64)
    with packed(model):
        assert largest_difference(logits_and_gradients(model, batch), expected) < 1e-5
    assert seen[0][1] == sum(lengths) if max(lengths) == 1 else seen[0][1] % 64 == 0


@pytest.mark.parametrize(("name", "multiple"), [("AMX", 64), ("AVX-512 with bfloat16", 32), ("AVX-512", 32)])
def test_a_batch_of_bfloat16_is_filled_up(name, multiple):
    """By autocast or by the model's own dtype; in float32 the bits stay."""
    for dtype in (torch.bfloat16, torch.float32):
        for autocast in (True, False):
            model, seen = tiny_distilbert().to(torch.float32 if autocast else dtype).eval(), []
            model.get_input_embeddings().register_forward_hook(lambda _m, args, _o, seen=seen: seen.append(args[0].shape))
            mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast and dtype is torch.bfloat16)
            with playing(MACHINES[name]), packed(model), torch.no_grad(), mixed:
                classify(model, batch_of([7, 3]))
            assert seen == [(1, multiple if dtype is torch.bfloat16 else 10)]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_gradients_of_every_weight_are_the_padded_ones(family):
    """Also with nothing frozen: embeddings, positions, norms."""
    model, batch = tiny(family).train(), batch_of(LENGTHS["uneven"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("pooler" not in name or family == "bert")
    expected = logits_and_gradients(model, batch)
    with packed(model):
        found = logits_and_gradients(model, batch)
    assert largest_difference(found, expected) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_bfloat16_stays_within_the_house_tolerance(family):
    """Max error over rms against the float32 padded pass: 6e-2."""
    model, batch = adapted(family), batch_of(LENGTHS["uneven"])
    expected = logits_and_gradients(model, batch)["logits"]
    with packed(model):
        found = logits_and_gradients(model, batch, autocast=True)["logits"]
    assert (found - expected).abs().max() / expected.square().mean().sqrt() < 6e-2


def test_roberta_positions_are_the_models_own_with_a_padding_token_in_the_text():
    """RoBERTa gives a padding token no number, wherever it stands."""
    model, batch = adapted("roberta"), batch_of([6, 4])
    batch.input_ids[0, 2] = 0
    expected = logits_and_gradients(model, batch)
    with packed(model):
        assert largest_difference(logits_and_gradients(model, batch), expected) < 1e-5


def test_packed_pass_computes_no_padding_and_first_tokens_alone_at_the_end():
    """Blocks see one row of real tokens; what follows attention in the last one sees the first token of each row."""
    model, batch, shapes = adapted("distilbert"), batch_of([7, 3]), []
    for block in model.distilbert.transformer.layer:
        block.ffn.register_forward_hook(lambda _m, args, _o: shapes.append(args[0].shape))
    with packed(model):
        classify(model, batch)
    assert shapes == [(1, 10, 32), (1, 2, 32)]


def test_a_batch_that_is_not_padded_on_the_right_goes_the_padded_way():
    """Padding in front, in the middle, or a row of nothing else: the logits are the model's own, bit for bit."""
    model, batch = tiny_distilbert(), batch_of([5, 5, 5])
    for row, filling in enumerate([[0, 1], [2], [0, 1, 2, 3, 4]]):
        batch.attention_mask[row, filling] = 0
        with torch.no_grad():
            expected = classify(model, batch)
            with packed(model):
                assert torch.equal(classify(model, batch), expected)


def test_attention_dropout_is_applied_in_training_alone():
    """Two passes differ in training and agree in evaluation."""
    model, batch = tiny_distilbert(dropout=0.5), batch_of([5, 3])
    with packed(model), torch.no_grad():
        assert torch.equal(classify(model, batch), classify(model, batch))
        attention = model.distilbert.transformer.layer[0].attention.train()
        assert attention.dropout.p == 0.5
        assert not torch.equal(classify(model, batch), classify(model, batch))


def test_a_call_with_other_inputs_than_ids_and_mask_is_the_models_own():
    """With labels, the model computes inside what it computes outside, bit for bit."""
    model, batch = tiny_distilbert(), batch_of([5, 3])
    padded = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}
    with torch.no_grad():
        expected = model(**padded).logits
        with packed(model):
            assert torch.equal(model(**padded).logits, expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_leaves_the_model_as_it_was(attention):
    """The attention it had and no hooks, also after an exception; a context inside another one changes nothing."""
    model = tiny_distilbert()
    model.set_attn_implementation(attention)
    with suppress(KeyError), packed(model):
        with packed(model):
            pass
        assert model.config._attn_implementation == NAME
        raise KeyError
    assert model.config._attn_implementation == attention
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_models_that_are_not_known_to_pack_go_the_padded_way():
    """GPT-2 is causal, a checkpointed or chunked model runs its blocks another way: same logits as ever."""
    chunked, checkpointed = tiny("bert"), tiny("bert")
    chunked.config.chunk_size_feed_forward = 1
    checkpoint_activations(checkpointed)
    assert [can_pack(m) for m in (tiny("bert"), tiny("gpt2"), chunked, checkpointed, torch.nn.Linear(1, 1))] == [
        True,
        False,
        False,
        False,
        False,
    ]
    model, batch = tiny("gpt2"), batch_of([5, 3])
    with torch.no_grad(), packed(model):
        logits = classify(model, batch)
        assert torch.equal(logits, model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits)


def test_a_family_whose_attention_is_not_looked_up_by_name_is_not_packed(monkeypatch):
    """Such a model computes its own attention, which would mix the rows of a packed batch."""
    model = tiny_distilbert()
    assert can_pack(model)
    monkeypatch.setattr(type(model), "_supports_attention_backend", False)
    assert not can_pack(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_activation_checkpointing_is_seen_under_every_name_that_transformers_gave_it(family, monkeypatch):
    """transformers 5.23 renamed the property, 6 drops the older name; the flag on the modules stays."""
    model = tiny(family)
    for name in ("is_activation_checkpointing", "is_gradient_checkpointing"):
        monkeypatch.delattr(transformers.PreTrainedModel, name, raising=False)
    assert can_pack(model)
    checkpoint_activations(model)
    assert not can_pack(model)
