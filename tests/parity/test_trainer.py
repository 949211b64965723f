"""Our adapted model under transformers' Trainer: it trains what it should, saves as ours, and PEFT reads the file."""

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from support.tiny import tiny_distilbert, tiny_rows
from transformers import Trainer, TrainingArguments

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.serialization import save_adapter

ROWS = tiny_rows(24)


def rows():
    """Of one length, so that no tokenizer has to pad them."""
    ids = [tokens.tolist()[:3] for tokens in torch.split(ROWS.tokens, ROWS.lengths.tolist())]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * 3] * len(ids), "labels": ROWS.labels.tolist()})


def trained(place, *, steps, resume=None, **settings):
    """An adapted model after a Trainer's steps, with a checkpoint after every two."""
    arguments = TrainingArguments(
        output_dir=str(place),
        max_steps=steps,
        save_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",  # a decaying one depends on the number of steps
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    model = inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=8, dropout=0.0), seed=0)
    data = {"train_dataset": rows(), "eval_dataset": rows()}
    Trainer(model=model, args=arguments, **data).train(resume_from_checkpoint=resume)
    return model.eval()


def outputs(model):
    """The logits of two texts."""
    ids = torch.randint(1, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_checkpoints_of_a_trainer_reload_as_plain_models_and_resume(tmp_path):
    """Trainer saves at its end by default: the folder reloads with the same outputs, and a resumed run has the same bits."""
    whole = trained(tmp_path / "whole", steps=4)
    plain = type(whole).from_pretrained(tmp_path / "whole" / "checkpoint-4").eval()
    assert torch.allclose(outputs(plain), outputs(whole), atol=1e-5)
    trained(tmp_path / "half", steps=2)
    resumed = trained(tmp_path / "half", steps=4, resume=str(tmp_path / "half" / "checkpoint-2"))
    assert torch.allclose(outputs(resumed), outputs(whole), atol=1e-5)


def test_trainer_loads_its_best_checkpoint_into_the_adapted_model(tmp_path):
    """Adapter and head of the best step, not those of the last."""
    best = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "greater_is_better": True}
    model = trained(tmp_path, steps=4, metric_for_best_model="loss", **best)  # the worst loss: that of the second step
    plain = type(model).from_pretrained(tmp_path / "checkpoint-2").eval()
    assert torch.allclose(outputs(plain), outputs(model), atol=1e-5)
    assert not torch.allclose(outputs(trained(tmp_path / "last", steps=4)), outputs(model), atol=1e-4)


@pytest.mark.parametrize("recomputing", [False, True])
def test_trainer_trains_adapter_and_head_alone_and_peft_reads_what_we_save(tmp_path, recomputing):
    """Ten steps, with and without recomputed activations: the base keeps its bits, PEFT gives our logits."""
    model = inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=8, dropout=0.0), seed=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    settings = TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        max_steps=10,
        learning_rate=1e-2,
        gradient_checkpointing=recomputing,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    Trainer(model=model, args=settings, train_dataset=rows()).train()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
    save_adapter(model, tmp_path / "adapter", base_model="tiny")
    theirs = PeftModel.from_pretrained(tiny_distilbert(), str(tmp_path / "adapter")).eval()
    ids = torch.randint(1, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(theirs(input_ids=ids).logits, model.eval()(input_ids=ids).logits, atol=1e-5)
