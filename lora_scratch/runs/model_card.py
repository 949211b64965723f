"""The model card that goes with an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..adapter import LoRAConfig
from .loading import DEMO
from .options import ADAPTER_AND_HEAD


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
{"rank-stabilized scaling, " if config.rslora else ""}on {", ".join(config.targets or [])}; {
        "trained in full" if notes.get("trainable", ADAPTER_AND_HEAD) == ADAPTER_AND_HEAD else "not trained, but part of it"
    }: {", ".join(config.head_modules or []) or "nothing else"}.

Data: {notes["data"]["source"]}. Training: {training["epochs"]} epochs, batch size {training["batch_size"]}, learning rate
{training["learning_rate"]:g}, seed {training["seed"]}. Hashes and versions are in provenance.json.

## Results on the test rows

{results}

{_load_it(base, notes["labels"])}

Made with `{notes["command"]}`.
"""


def combined_card(
    base: str, labels: Sequence[str], origins: Sequence[tuple[str, float]], *, residual: float, command: str
) -> str:
    """README.md of a sum of adapters: of what it is the sum, what was lost, how to load it. Markdown."""
    terms = "\n".join(f"| {folder} | {weight:g} |" for folder, weight in origins)
    return f"""---
base_model: {base}
library_name: peft
tags: [lora, text-classification]
---

# A sum of LoRA adapters for {base}

Classifies texts as {", ".join(labels)}. Its update of each weight is the weighted sum of the updates of these adapters,
less {residual:.2%} of its Frobenius norm, which the rank it is written in could not hold:

| adapter | weight |
|---|---|
{terms}

{_load_it(base, labels)}

Made with `{command}`.
"""


def compressed_card(base: str, labels: Sequence[str], origin: str, results: str, *, command: str) -> str:
    """README.md of a compressed adapter: of what, what it costs, how to load it. Markdown."""
    return f"""---
base_model: {base}
library_name: peft
tags: [lora, text-classification]
---

# A compressed LoRA adapter for {base}

Classifies texts as {", ".join(labels)}. Holds the strongest singular directions of the updates of {origin}, in every module
as many as it needs, and of some modules none:

{results}

{_load_it(base, labels)}

Made with `{command}`.
"""


def _load_it(base: str, labels: Sequence[str]) -> str:
    if base == DEMO:
        return """## Load it

The demo's base is built by lora-scratch and is on no hub:

```python
from lora_scratch.jobs import open_adapter

model = open_adapter("path/to/this/folder").base.model
```"""
    return f"""## Load it

```python
import peft, transformers

base = transformers.AutoModelForSequenceClassification.from_pretrained({base!r}, num_labels={len(labels)},
                                                                       ignore_mismatched_sizes=True)
model = peft.PeftModel.from_pretrained(base, "path/to/this/folder").eval()
```"""
