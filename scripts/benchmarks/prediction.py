"""Measures texts a second from text to label: ours against `transformers.pipeline`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject, merge_and_remove
from lora_scratch.deploy.classify import Classified, Classifier
from lora_scratch.runs import TrainedAdapter, open_adapter
from lora_scratch.runtime.seeds import named_generator
from lora_scratch.serialization import DataRecord, Provenance

from .work import Work

PIPELINE_BATCH = 32
WARM_TEXTS = 64

Classify = Callable[[Sequence[str]], list[str]]


def pipeline(saved: TrainedAdapter, work: Work) -> Classify:
    """Serve the adapter, merged into its base, by transformers as its documentation says."""
    from transformers import pipeline

    serve = pipeline(
        "text-classification",
        model=merge_and_remove(saved.base.model),
        tokenizer=saved.base.tokenizer,
        device=work.device,
    )
    options = {"batch_size": PIPELINE_BATCH, "truncation": True, "max_length": saved.max_tokens}
    return lambda texts: [answer["label"] for answer in serve(list(texts), **options)]


def ours(saved: TrainedAdapter, work: Work, *, precision: str) -> Classify:
    """Serve the adapter as scripts/predict.py does."""
    classify = Classifier(saved, precision=work.precision(precision))

    def label(texts: Sequence[str]) -> list[str]:
        """Return the label of every text."""
        return [answer.answer["label"] for answer in classify(texts) if isinstance(answer, Classified)]

    return label


PREDICTORS: dict[str, Callable[[TrainedAdapter, Work], Classify]] = {
    "pipeline": pipeline,
    "ours-fp32": lambda saved, work: ours(saved, work, precision="fp32"),
    "ours-bf16": lambda saved, work: ours(saved, work, precision="bf16"),
}


def measure_prediction(name: str, work: Work, *, count: int, adapter: str | None) -> dict[str, Any]:
    """Return texts a second over `count` of the test rows, and their labels, to be compared.

    Args:
        adapter: folder of a trained adapter. None takes one of random numbers: its labels are
            close calls.
    """
    saved = open_adapter(adapter) if adapter else random_adapter(work)
    classify = PREDICTORS[name](saved, work)
    texts = [row.text for row in work.splits.test[:count]]
    classify(texts[:WARM_TEXTS])
    start = time.perf_counter()
    labels = classify(texts)
    seconds = time.perf_counter() - start
    return {
        "texts": len(texts),
        "seconds": seconds,
        "texts_per_second": len(texts) / seconds,
        "labels": labels,
    }


@torch.no_grad()
def random_adapter(work: Work) -> TrainedAdapter:
    """Return the base with random adapter tensors that are large enough to tell texts apart."""
    config = LoRAConfig(rank=8, alpha=16, targets=work.adapter.targets)
    inject(work.base.model, config, seed=work.training.seed)
    for name, layer in adapter_layers(work.base.model).items():
        for tensor in layer.adapter_tensors().values():
            tensor.normal_(std=tensor.shape[-1] ** -0.5, generator=named_generator(0, name))
    return trained_adapter(work, work.base.model)


def trained_adapter(work: Work, model: Any) -> TrainedAdapter:
    """Return `model`, which holds an adapter, as one that was trained and opened again."""
    rows = DataRecord(max_tokens=work.sets["test"].max_tokens)
    provenance = Provenance(labels=work.splits.labels, task=work.splits.task, data=rows)
    return TrainedAdapter(replace(work.base, model=model), work.adapter, provenance)
