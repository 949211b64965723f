"""PEFT as a contender: its adapter, or no adapter at all, trained by transformers' Trainer."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from typing import Any

import torch

from lora_scratch.data import Encoded
from lora_scratch.fast.onednn import is_exact, through_onednn
from lora_scratch.tasks import Task

from .watch import Watch
from .work import Work

HEADLINE = "headline"  # the name of the score that chooses the epoch


def build_peft(work: Work) -> Any:
    """Return the base with PEFT's adapter of the same rank, targets and dropout."""
    import peft

    config = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=work.adapter.rank,
        lora_alpha=work.adapter.alpha,
        lora_dropout=work.adapter.dropout,
        use_rslora=work.adapter.rslora,
        target_modules=work.adapter.targets,
    )
    return peft.get_peft_model(work.base.model, config)


def build_full(work: Work) -> Any:
    """Return the base with every parameter trained."""
    return work.base.model.requires_grad_(True)


def train_peer(
    model: Any,
    work: Work,
    rows: Encoded,
    watch: Watch,
    *,
    validation: Encoded | None = None,
    onednn: bool = False,
    **arguments: Any,
) -> None:
    """Train on `rows`. With a `validation`, the model ends as it was in the best epoch by the headline score.

    Args:
        onednn: send float32 matrix products to oneDNN, which is faster than MKL on some CPUs.
            With AMX they would be rounded to bfloat16, so there they stay with MKL.
        arguments: of TrainingArguments, beside those that make the work the same as ours.
    """
    from transformers import Trainer

    collator = _CountingCollator(work.base.tokenizer)
    with tempfile.TemporaryDirectory() as folder, through_onednn() if onednn and is_exact() else nullcontext():
        trainer = Trainer(
            model=model,
            args=_arguments(work, folder, validated=validation is not None, **arguments),
            train_dataset=_data_set(rows),
            eval_dataset=None if validation is None else _data_set(validation),
            data_collator=collator,
            compute_metrics=partial(_headline, work.task),
        )
        _attach(trainer, watch, collator)
        trainer.train()


def _headline(task: Task, prediction: Any) -> dict[str, float]:
    """Return the task's main score, with thresholds fitted as our loop fits them."""
    logits, labels = torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids)
    return {HEADLINE: task.fitted(logits, labels).measure(logits, labels).headline}


def _arguments(work: Work, folder: str, *, validated: bool, **arguments: Any) -> Any:
    """Return the settings of our loop as Trainer names them."""
    from transformers import TrainingArguments

    settings = work.training
    known = {field.name for field in fields(TrainingArguments)}
    after = "epoch" if validated else "no"
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=64,
        gradient_accumulation_steps=settings.accumulation_steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_ratio,
        lr_scheduler_type=settings.schedule,
        max_grad_norm=settings.clip_norm,
        eval_strategy=after,
        save_strategy=after,
        load_best_model_at_end=validated,
        metric_for_best_model=HEADLINE if validated else None,
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        use_cpu=work.device.type == "cpu",
        **_as_spelled(known, arguments),
    )


def _as_spelled(known: set[str], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments by the names that this transformers knows.

    Up to 5.2 the sampler by length had a flag of its own.
    """
    new = "train_sampling_strategy"
    if new in known or new not in arguments:
        return arguments
    others = {name: value for name, value in arguments.items() if name != new}
    return {**others, "group_by_length": arguments[new] == "group_by_length"}


def sorted_together(rows: int, batch_size: int) -> int:
    """Return how many batches Trainer's grouping sorts by length at a time, the longest first.

    Only all of them together are a fair sample.

    Source: transformers, trainer_pt_utils.get_length_grouped_indices.
    """
    return max(1, min(rows // (4 * batch_size), 50))


def _data_set(encoded: Encoded) -> Any:
    """Return the rows as a data set for Trainer: labels as the loss of transformers takes them."""
    from datasets import Dataset

    flat = {"input_ids": encoded.tokens, "token_type_ids": encoded.token_types}
    lengths = encoded.lengths.tolist()
    columns = {
        name: [row.tolist() for row in torch.split(tokens, lengths)] for name, tokens in flat.items() if tokens is not None
    }
    return Dataset.from_dict({**columns, "labels": encoded.labels.tolist()})


class _CountingCollator:
    """Pads a batch to its longest row, as Trainer does by itself, and notes its real tokens."""

    def __init__(self, tokenizer: Any) -> None:
        from transformers import DataCollatorWithPadding

        self.pad = DataCollatorWithPadding(tokenizer)
        self.tokens: deque[int] = deque()

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        self.tokens.append(sum(len(row["input_ids"]) for row in rows))
        return self.pad(rows)


def _attach(trainer: Any, watch: Watch, collator: _CountingCollator) -> None:
    """Tell `watch` of every optimizer step, timed from the end of the step before."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            collator.tokens.clear()  # of the validation after the epoch before
            self.last = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            seconds = time.perf_counter() - self.last
            batches = min(args.gradient_accumulation_steps, len(collator.tokens))
            tokens = sum(collator.tokens.popleft() for _ in range(batches))
            if watch.step(trainer.model, seconds=seconds, tokens=tokens):
                control.should_training_stop = True
            self.last = time.perf_counter()

    trainer.add_callback(Steps())
