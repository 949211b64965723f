"""A saved adapter of a tiny model, and changes to its files."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.damage import reseal
from support.families import record, tiny
from support.tiny import tiny_distilbert

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.errors import AdapterFileError
from lora_scratch.serialization import load_adapter
from lora_scratch.testing import move_adapter

WEIGHTS, CONFIG, PROVENANCE = "adapter_model.safetensors", "adapter_config.json", "provenance.json"
Q0 = "base_model.model.distilbert.transformer.layer.0.attention.q_lin"


def adapted(family="distilbert", *, seed=0, **options):
    """A model whose adapter and head are away from their start."""
    model = inject(tiny(family), LoRAConfig(**{"rank": 4, "alpha": 6, "dropout": 0.0} | options), seed=seed)
    move_adapter(model, seed=seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and "lora_" not in name:
                p.add_(0.1)
    return model


def foreign(folder):
    """Take our own side file away, as if another tool had written the folder: nothing tells the bytes then."""
    (folder / PROVENANCE).unlink()
    return folder


def change_tensors(folder, change):
    """Rewrite the tensors, and the hash with them, so that the file is in order and only its content is not."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    if (folder / PROVENANCE).exists():
        reseal(folder)


def change_json(path, change):
    """Rewrite a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content))


def refused(folder, *, error=AdapterFileError, model=None, match=None, **options):
    """Loading raises this error and leaves every bit of the model; the error, for more questions."""
    model = model or tiny_distilbert()
    before = record(model)
    with pytest.raises(error, match=match) as caught:
        load_adapter(model, folder, **options)
    assert record(model) == before
    assert "\n" not in str(caught.value)
    return caught.value
