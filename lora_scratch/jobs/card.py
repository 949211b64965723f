"""The model card that goes with an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..adapter import LoRAConfig


def model_card(base: str, config: LoRAConfig, notes: Mapping[str, Any], results: str) -> str:
    """README.md of an adapter folder: what it adapts, how it was made, what it measured, how to load it. Markdown."""
    training = notes["training"]
    return f"""---
base_model: {base}
library_name: peft
tags: [lora, text-classification]
---

# LoRA adapter for {base}

Classifies texts as {", ".join(notes["labels"])}. Rank {config.rank}, alpha {config.alpha:g}, dropout {config.dropout:g},
{"rank-stabilised scaling, " if config.rslora else ""}on {", ".join(config.targets or [])}; trained in full: {
        ", ".join(config.head_modules or []) or "nothing else"
    }.

Data: {notes["data"]["source"]}. Training: {training["epochs"]} epochs, batch size {training["batch_size"]}, learning rate
{training["learning_rate"]:g}, seed {training["seed"]}. Hashes and versions are in provenance.json.

## Results on the test rows

{results}

## Load it

```python
import peft, transformers

base = transformers.AutoModelForSequenceClassification.from_pretrained({base!r}, num_labels={len(notes["labels"])},
                                                                       ignore_mismatched_sizes=True)
model = peft.PeftModel.from_pretrained(base, "path/to/this/folder").eval()
```

Made with `{notes["command"]}`.
"""
