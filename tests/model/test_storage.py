"""lora_scratch/model/storage.py: rounding frozen weights once is what autocast does, bit for bit; nobody else sees it."""

from contextlib import suppress

import pytest
import torch
from families import record, tiny
from passes import adapted, batch_of, logits_and_gradients

from lora_scratch.adapter import AdapterBank, LoRAConfig, fingerprint, inject
from lora_scratch.model.storage import multiplied_in

ROWS = batch_of([7, 3, 5, 2])


@pytest.mark.parametrize("family", ["distilbert", "bert", "roberta", "electra"])
@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_logits_and_gradients_are_those_of_autocast_in_every_bit(family, variant):
    """Autocast rounds the same numbers to the same numbers; DoRA's norm is still that of the unrounded weight."""
    model = inject(tiny(family), LoRAConfig(rank=4, alpha=12, dropout=0.0, variant=variant)).train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    expected = logits_and_gradients(model, ROWS, autocast=True)
    with multiplied_in(model, torch.bfloat16):
        found = logits_and_gradients(model, ROWS, autocast=True)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_no_frozen_linear_weight_is_rounded_again_in_a_forward_pass():
    """The point of it: what the autograd graph keeps of a frozen layer is the one copy, whatever the number of passes."""
    model = adapted("distilbert")
    stored: list[set[int]] = []

    def weights_kept() -> set[int]:
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            logits_and_gradients(model, ROWS, autocast=True)
        stored.append({t.untyped_storage().data_ptr() for t in kept if t.dtype is torch.bfloat16 and t.ndim == 2})
        return stored[-1]

    with multiplied_in(model, torch.bfloat16):
        linear = model.distilbert.transformer.layer[0].ffn.lin1
        copy = linear.forward.keywords["weight"].untyped_storage().data_ptr()
        assert copy in weights_kept()
        assert copy in weights_kept()


def test_everything_that_reads_a_weight_sees_the_unrounded_one():
    """Files, fingerprints and merges made inside are those made outside."""
    model = adapted("distilbert")
    prints, state = fingerprint(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with multiplied_in(model, torch.bfloat16):
        assert fingerprint(model) == prints
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_model_is_as_it_was_afterwards_even_after_an_exception():
    """No forward of ours is left on any layer, and a nested use leaves the outer one alone."""
    model = adapted("distilbert")
    before = record(model)
    with suppress(KeyError), multiplied_in(model, torch.bfloat16):
        inside = model.distilbert.transformer.layer[0].ffn.lin1.forward
        with multiplied_in(model, torch.float16):
            pass
        assert model.distilbert.transformer.layer[0].ffn.lin1.forward is inside
        raise KeyError
    assert record(model) == before
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_layer_that_is_trained_keeps_its_own_forward():
    """A trained weight changes every step: a copy of it would be the old one."""
    model = adapted("distilbert")
    with multiplied_in(model, torch.bfloat16):
        assert "forward" not in vars(model.classifier)
        assert model.classifier.weight.requires_grad


def test_heads_of_a_bank_keep_the_weights_of_every_row():
    """Their base is frozen too, but each row goes through weights of its own: in every bit as under autocast alone."""
    bank = AdapterBank(tiny("distilbert"))
    bank.add("one", adapted("distilbert"))
    batch = {"input_ids": ROWS.input_ids, "attention_mask": ROWS.attention_mask}
    with bank.rows(["one", "base", "one", "base"]) as model, torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(**batch).logits
        with multiplied_in(model, torch.bfloat16):
            assert "forward" in vars(model.distilbert.transformer.layer[0].attention.q_lin.base)
            assert torch.equal(model(**batch).logits, expected)
