"""Fold an adapter into its base: a plain transformers model, as fast as the base, that needs neither PEFT nor this project.

python scripts/export.py checkpoints/demo/adapter --merged exported
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lora_scratch.adapter import merge_and_remove
from lora_scratch.jobs import check_free, open_adapter, run_command
from lora_scratch.runtime.atomic import new_folder


def main() -> None:
    """Load, fold, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", help="adapter folder, as scripts/train.py writes it")
    parser.add_argument("--merged", required=True, metavar="DIR", help="where the plain model goes; must not hold files yet")
    parser.add_argument("--model", help="base model, if not the one the adapter names")
    options = parser.parse_args()
    place = check_free(Path(options.merged), flag="--merged")
    saved = open_adapter(options.adapter, model=options.model)
    model: Any = merge_and_remove(saved.base.model)
    with new_folder(place) as folder:
        model.save_pretrained(folder)
        saved.base.tokenizer.save_pretrained(folder)
    print(f"{place}: AutoModelForSequenceClassification.from_pretrained loads it")


if __name__ == "__main__":
    run_command(main)
