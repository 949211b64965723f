"""Texts a second from text to label: ours against `transformers.pipeline`, same model, same texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lora_scratch.commands.benchmarks.work import Work

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject, merge_and_remove
from lora_scratch.deploy.classify import Classified, Classifier
from lora_scratch.runs import TrainedAdapter, open_adapter
from lora_scratch.runtime.seeds import named_generator

PIPELINE_BATCH = 32
WARM_TEXTS = 64

Classify = Callable[[Sequence[str]], list[str]]


def pipeline(saved: TrainedAdapter, work: Work) -> Classify:
    """The adapter folded into its base, served by transformers as its documentation says."""
    from transformers import pipeline

    device = work.precision("fp32").device
    serve = pipeline(
        "text-classification", model=merge_and_remove(saved.base.model), tokenizer=saved.base.tokenizer, device=device
    )
    cut = {"truncation": True, "max_length": saved.notes["data"]["max_tokens"]}
    return lambda texts: [each["label"] for each in serve(list(texts), batch_size=PIPELINE_BATCH, **cut)]


def ours(saved: TrainedAdapter, work: Work, *, precision: str) -> Classify:
    """scripts/predict.py's way."""
    classify = Classifier(saved, precision=work.precision(precision))
    return lambda texts: [each.label for each in classify(texts) if isinstance(each, Classified)]


PREDICTORS: dict[str, Callable[[TrainedAdapter, Work], Classify]] = {
    "pipeline": pipeline,
    "ours-fp32": lambda saved, work: ours(saved, work, precision="fp32"),
    "ours-bf16": lambda saved, work: ours(saved, work, precision="bf16"),
}


def measure_prediction(name: str, work: Work, *, count: int, adapter: str | None) -> dict[str, Any]:
    """Texts a second over `count` of the test rows, and the label of each, to be compared.

    Args:
        adapter: folder of a trained adapter; None takes one of random numbers, whose labels are close calls.
    """
    saved = open_adapter(adapter) if adapter else _random_adapter(work)
    classify = PREDICTORS[name](saved, work)
    texts = [row.text for row in work.splits.test[:count]]
    classify(texts[:WARM_TEXTS])
    start = time.perf_counter()
    labels = classify(texts)
    seconds = time.perf_counter() - start
    return {"texts": len(texts), "seconds": seconds, "texts_per_second": len(texts) / seconds, "labels": labels}


@torch.no_grad()
def _random_adapter(work: Work) -> TrainedAdapter:
    """The base of the work with an adapter and a head that are far enough from their start to tell texts apart."""
    inject(work.base.model, LoRAConfig(rank=8, alpha=16, targets=work.adapter.targets), seed=work.training.seed)
    for name, layer in adapter_layers(work.base.model).items():
        for tensor in layer.adapter_tensors().values():
            tensor.normal_(std=tensor.shape[-1] ** -0.5, generator=named_generator(0, name))
    return TrainedAdapter(
        work.base, work.adapter, work.splits.labels, {"data": {"max_tokens": work.sets["test"].max_tokens}}
    )
