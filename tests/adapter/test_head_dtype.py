"""lora_scratch/adapter/head_dtype.py: a model in half precision works with its head in float32, without autocast."""

import copy
import pickle

import pytest
import torch
from support.causal import user_inputs, user_model
from support.families import logits, tiny, token_batch
from torch import nn

from lora_scratch.adapter import LoRAConfig, disabled, inject, merge_all, merge_and_remove, remove_adapter
from lora_scratch.serialization import load_adapter, save_adapter

HALF = [torch.bfloat16, torch.float16]
TOLERANCE = {torch.bfloat16: 6e-2, torch.float16: 8e-3}


def adapted(model, **settings):
    """Adapt the model, away from the start, with a head that was trained."""
    inject(model, LoRAConfig(**{"rank": 2, "targets": ["all-linear"], **settings}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("variant", ["lora", "dora"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "gpt2"])
def test_half_precision_is_close_to_float32(family, variant, dtype):
    """The update is computed in the dtype of x, and the logits have the base's dtype."""
    exact = adapted(tiny(family).to(dtype).float(), variant=variant)
    model = adapted(tiny(family).to(dtype), variant=variant)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    result, expected = logits(model), logits(exact)
    assert result.dtype == dtype
    error = (result.float() - expected).abs().max() / expected.square().mean().sqrt()
    assert error < TOLERANCE[dtype]


@pytest.mark.parametrize("init", ["pissa", "orthogonal"])
def test_every_start_works_in_bfloat16(init):
    """An offset layer too."""
    assert logits(adapted(tiny("bert").bfloat16(), init=init)).isfinite().all()


@pytest.mark.parametrize("dtype", HALF)
def test_training_step_reaches_every_trained_tensor(dtype):
    """With gradients in float32, in which small steps are not lost."""
    model = adapted(tiny("bert").to(dtype))
    model(**token_batch(), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and g.dtype == torch.float32 and g.abs().sum() > 0 for g in gradients)


def test_adapted_embedding_answers_in_the_dtype_of_its_table():
    """Else the next layer would get another dtype than it has."""
    model = adapted(tiny("bert").bfloat16(), targets=["word_embeddings"])
    assert logits(model).dtype == torch.bfloat16


def test_module_in_the_middle_gives_its_result_in_the_dtype_of_the_base():
    """A norm and an embedding in the encoder, trained in full: the layers after them are in bfloat16."""
    heads = ["bert.embeddings.word_embeddings", "bert.embeddings.LayerNorm", "classifier"]
    assert logits(adapted(tiny("bert").bfloat16(), targets=["query"], head_modules=heads)).dtype == torch.bfloat16


@pytest.mark.parametrize("convert", ["float", "double", "half"])
def test_model_converted_after_the_injection_works(convert):
    """`model.to(dtype)` converts base, adapter and head alike."""
    model = getattr(adapted(tiny("bert").bfloat16()), convert)()
    assert logits(model).dtype == next(model.bert.parameters()).dtype


def test_adapter_in_bfloat16_is_off_bit_for_bit():
    """With `disabled`, the head works in the base's dtype, as before the injection."""
    expected = logits(tiny("bert").bfloat16())
    model = adapted(tiny("bert").bfloat16())
    with disabled(model):
        assert torch.equal(logits(model), expected)
    assert {p.dtype for p in model.classifier.parameters()} == {torch.float32}
    assert torch.equal(logits(remove_adapter(model)), expected)


def test_merged_model_is_a_plain_one_in_bfloat16():
    """The head goes back to the base's dtype, so that the model works without hooks."""
    model = adapted(tiny("bert").bfloat16())
    expected = logits(model).float()
    merge_all(model)
    assert (logits(model).float() - expected).abs().max() < 6e-2
    merge_and_remove(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not model.classifier._forward_hooks
    assert not model.classifier._forward_pre_hooks
    assert not list(model.classifier.buffers())
    assert (logits(model).float() - expected).abs().max() < 6e-2


def pickled(model):
    """The model after a round trip through pickle."""
    return pickle.loads(pickle.dumps(model))  # noqa: S301


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_copies_work_alike_and_end_alone(copied):
    """A copy has hooks of its own."""
    model = adapted(tiny("bert").bfloat16())
    copy_of_it, expected = copied(model), logits(model)
    assert torch.equal(logits(copy_of_it), expected)
    assert logits(remove_adapter(copy_of_it)).dtype == torch.bfloat16
    assert torch.equal(logits(model), expected)


def test_adapter_saved_from_bfloat16_loads_into_it(tmp_path):
    """The trained tensors in float32, the base in bfloat16."""
    model = adapted(tiny("bert").bfloat16())
    save_adapter(model, tmp_path / "adapter")
    other = tiny("bert").bfloat16()
    load_adapter(other, tmp_path / "adapter")
    assert torch.equal(logits(other), logits(model))


def test_float32_head_gets_no_hooks():
    """Nothing is added to a model that needs nothing."""
    model = adapted(tiny("bert"))
    assert not model.classifier._forward_hooks
    assert not list(model.classifier.buffers())


def test_autocast_decides_alone():
    """Under autocast torch converts, and the hooks change nothing."""
    model = adapted(tiny("bert").bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        with_hooks = logits(model)
        for handle in model.classifier._head_dtype_hooks:
            handle.remove()
        assert torch.equal(logits(model), with_hooks)


@pytest.mark.parametrize("kind", ["vit", "llama", "t5"])
def test_other_models_work_in_bfloat16(kind):
    """Images and language models, without autocast."""
    model = adapted(user_model(kind).bfloat16())
    inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in user_inputs(kind).items()}
    model(**inputs).logits.float().sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_gradient_checkpointing_gives_the_same_gradients():
    """A block is computed again in the backward pass, in the same dtypes."""

    def gradients(checkpointed):
        model = adapted(tiny("bert").bfloat16()).train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        model(**token_batch()).logits.float().square().sum().backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    assert all(map(torch.equal, gradients(True), gradients(False)))


def test_head_of_several_arguments_keeps_what_is_no_tensor():
    """Keyword arguments, tuples and None pass."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x, *, scale=None):
            return self.inner(x), scale

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 4), Head()

        def forward(self, x):
            return self.head(self.body(x), scale=None)

    model = inject(Model().bfloat16(), LoRAConfig(rank=2, targets=["body"], head_modules=["head"]))
    y, scale = model(torch.randn(3, 4).bfloat16())
    assert y.dtype == torch.bfloat16
    assert scale is None
