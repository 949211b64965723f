"""The model card that goes with an adapter."""

from __future__ import annotations

from collections.abc import Sequence

from ..adapter import LoRAConfig
from ..evaluation import Report, render_markdown
from ..runtime.markdown import markdown_code, markdown_text
from ..serialization import Provenance
from ..tasks import Task
from .card_metadata import card_metadata, hub_model
from .loading import DEMO
from .options import ADAPTER_AND_HEAD


def model_card(provenance: Provenance, config: LoRAConfig, report: Report, *, test_split: str = "test") -> str:
    """Return README.md of a trained adapter: what it adapts, its training, its results.

    `test_split` is what the data set calls the test rows; empty if they were held out of train.
    """
    training, targets, heads = provenance.training, config.targets or [], config.head_modules or []
    in_full = provenance.trainable in (None, ADAPTER_AND_HEAD)
    text = f"""Rank {config.rank}, alpha {config.alpha:g}, dropout {config.dropout:g},
{"rank-stabilized scaling, " if config.rslora else ""}on {markdown_text(", ".join(targets))}; {
        "trained in full" if in_full else "not trained, but part of it"
    }: {markdown_text(", ".join(heads)) or "nothing else"}.

Data: {markdown_text(str(provenance.data.source))}. Training: {training.epochs} epochs, batch size {training.batch_size},
learning rate {training.learning_rate:g}, seed {training.seed}. Hashes and versions are in provenance.json.

## Results on the test rows

{render_markdown(report)}"""
    base = provenance.base.name
    metadata = card_metadata(base, provenance, report=report, test_split=test_split)
    return _card("LoRA adapter", base, provenance, text, command=str(provenance.command), metadata=metadata)


def combined_card(
    base: str, main: Provenance, origins: Sequence[tuple[str, float]], *, residual: float, command: str
) -> str:
    """Return README.md of a sum of adapters: its terms, and what was lost; `main` is the one whose labels it has."""
    terms = "\n".join(f"| {markdown_text(folder)} | {weight:g} |" for folder, weight in origins)
    text = f"""Its update of each weight is the weighted sum of the updates of these adapters,
less {residual:.2%} of its Frobenius norm, which the rank it is written in could not hold:

| adapter | weight |
|---|---|
{terms}"""
    return _card("A sum of LoRA adapters", base, main, text, command=command)


def compressed_card(base: str, main: Provenance, origin: str, results: str, *, command: str) -> str:
    """Return README.md of a compressed adapter: its origin, and what the compression costs."""
    text = f"""Holds the strongest singular directions of the updates of {markdown_text(origin)}, in every module
as many as it needs, and of some modules none:

{results}"""
    return _card("A compressed LoRA adapter", base, main, text, command=command)


def _card(title: str, base: str, provenance: Provenance, text: str, *, command: str, metadata: str = "") -> str:
    base_name = hub_model(base) or base
    task = provenance.make_task()
    subject = "texts" if provenance.data.pair_column is None else "pairs of texts"
    return f"""{metadata or card_metadata(base, provenance)}
# {title} for {markdown_text(base_name)}

{markdown_text(task.sentence(subject))} {text}

{_load_it(base_name, task)}

Made with {markdown_code(command)}.
"""


def _load_it(base: str, task: Task) -> str:
    if base == DEMO:
        return """## Load it

The demo's base is built by lora-scratch and is on no hub:

```python
from lora_scratch.runs import open_adapter

model = open_adapter("path/to/this/folder").base.model
```"""
    return f"""## Load it

```python
import peft, transformers

base = transformers.AutoModelForSequenceClassification.from_pretrained(
    {base!a}, num_labels={len(task.labels)},
    problem_type={task.problem_type!r}, ignore_mismatched_sizes=True)
model = peft.PeftModel.from_pretrained(base, "path/to/this/folder").eval()
```"""
