"""lora_scratch/model/forward.py: rows are padded as their family pads, or not at all."""

import pytest
import torch
from support.tiny import tiny_rows
from support.tiny_models import save_tiny, tiny_model

from lora_scratch.data import plan_eval_batches
from lora_scratch.evaluation import Predictor
from lora_scratch.model.base import load_base
from lora_scratch.model.checks import NO_PADDING, check_base
from lora_scratch.model.forward import need_equal_lengths, pad_as_family, set_equal_lengths
from lora_scratch.runtime.precision import resolve_precision

CPU = resolve_precision("fp32", torch.device("cpu"))


def test_rows_of_xlnet_are_padded_on_the_left():
    """The head reads the last token; order and mask move with the ids."""
    ids, mask = torch.tensor([[5, 6, 0, 0], [7, 8, 9, 3]]), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    padded = pad_as_family(tiny_model("xlnet"), {"input_ids": ids, "attention_mask": mask})
    assert padded["input_ids"].tolist() == [[0, 0, 5, 6], [7, 8, 9, 3]]
    assert padded["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]


def test_rows_of_other_families_stay_as_they_are():
    """BERT reads the first token."""
    inputs = {"input_ids": torch.tensor([[5, 0]]), "attention_mask": torch.tensor([[1, 0]])}
    assert pad_as_family(tiny_model("bert"), inputs) is inputs


@pytest.mark.parametrize("family", ["convbert", "fnet", "mobilebert", "nystromformer"])
def test_a_family_that_computes_with_the_padding_is_batched_by_length_and_it_is_said(family, tmp_path):
    """Convolutions and Fourier transforms read what stands beside a token."""
    base = check_base(load_base(str(save_tiny(family, tmp_path))))
    assert base.equal_lengths
    assert NO_PADDING in base.notes


def test_a_model_whose_logits_change_with_padding_is_found_by_its_logits(tmp_path, monkeypatch):
    """Whatever its family: here a BERT that forgets the mask."""
    base = load_base(str(save_tiny("bert", tmp_path)))
    assert not need_equal_lengths(base.model)
    forward = base.model.forward
    monkeypatch.setattr(base.model, "forward", lambda attention_mask, **inputs: forward(**inputs))
    assert NO_PADDING in check_base(base).notes
    assert need_equal_lengths(base.model)


def test_batches_of_equal_lengths_hold_all_rows_once_and_one_length_each():
    """The longest come first, as in other plans."""
    lengths = torch.tensor([3, 5, 3, 4, 5, 3, 3])
    batches = plan_eval_batches(lengths, batch_tokens=9, equal_lengths=True)
    assert batches == [[1], [4], [3], [0, 2, 5], [6]]


def test_prediction_of_such_a_model_sees_no_padding():
    """Every mask that reaches the model is full."""
    model, masks = tiny_model("bert"), []
    model.register_forward_pre_hook(lambda _, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True)
    set_equal_lengths(model)
    Predictor(model, CPU, 0, plain=True).logits(tiny_rows(20))
    assert len(masks) > 1
    assert all(bool(mask.all()) for mask in masks)
