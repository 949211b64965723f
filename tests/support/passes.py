"""A batch, an adapted model away from its start, and what one forward and backward pass of it gives."""

import torch
import torch.nn.functional as F
from support.families import tiny
from support.tiny import VOCABULARY

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject
from lora_scratch.data import Batch
from lora_scratch.model.forward import classify


def batch_of(lengths, *, seed=0):
    """Random tokens, padded on the right with 0."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(2, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(seed)) * mask
    return Batch(ids, mask.long(), torch.arange(len(lengths)) % 3, torch.arange(len(lengths)))


def adapted(family, *, dropout=0.0):
    """An adapted model away from its start: B is random."""
    model = inject(tiny(family), LoRAConfig(rank=4, alpha=12, dropout=dropout))
    for layer in adapter_layers(model).values():
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    return model.train()


def logits_and_gradients(model, batch, *, autocast=False):
    """The logits, and the gradient of the loss for every trained tensor."""
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits = classify(model, batch).float()
    F.cross_entropy(logits, batch.labels).backward()
    return {"logits": logits.detach()} | {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def largest_difference(found, expected):
    """Over the largest entry of what is expected; the worst tensor. One that is zero in exact arithmetic, as the gradients
    of queries are with one token a row, holds rounding errors of the others and is measured against a hundredth of these.
    """
    assert found.keys() == expected.keys()
    noise = 1e-2 * max(float(e.abs().max()) for e in expected.values())
    return max(float((found[n] - e).abs().max()) / max(float(e.abs().max()), noise) for n, e in expected.items())
