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
