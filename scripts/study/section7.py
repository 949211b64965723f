"""Section 7 of the LoRA paper (Hu et al. 2021) on your model: which matrices, which rank, ΔW and W.

    lora-scratch section7 --model MINILM --dataset EMOTION --output_dir checkpoints/section7
    lora-scratch section7 --model DIR --dataset DIR --output_dir DIR --limit_train 16000 --epochs 3 --seeds 0 1 2
    lora-scratch section7 --config replay.yaml --output_dir DIR

Flags that are not listed here are those of the command train. All trainings share these, unless
you give others:
{shared}
Every training has a run folder below OUTPUT_DIR/runs. An interrupted replay resumes where it
stopped. Writes section7.json, section7.md, report.html and the pictures, figure-1.svg and so on, to
OUTPUT_DIR.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from lora_scratch.errors import ConfigError
from lora_scratch.evaluation import Table, markdown_table
from lora_scratch.reporting import Page, write_page
from lora_scratch.runs import (
    BASIC,
    TRAIN_OPTIONS,
    argument_parser,
    check_given,
    command_line,
    flag_parser,
    open_base,
    run_command,
    with_config,
)
from lora_scratch.runtime.atomic import write_json, write_text
from lora_scratch.study.section7 import Plan, collect, flags, run_place
from lora_scratch.study.section7_page import section7_page, section7_tables
from lora_scratch.study.sweep import MOST_PROCESSES, check_same_flags, train_all

TRAIN = Path(__file__).parents[1] / "train.py"
SHARED = shlex.split(
    "--limit_train 4000 --epochs 2 --batch_size 32 --learning_rate 2e-3 --alpha 16 --threads 1"
)  # two minutes of one core each, with MiniLM
OURS = ("--seed", "--rank", "--targets", "--resume")  # flags of train that a replay sets itself


def main() -> None:
    """Run the missing trainings, then write all figures."""
    options, others = parse_arguments()
    folder = Path(options.output_dir)
    plan = Plan(options.budget, tuple(options.ranks), tuple(options.seeds))
    shared = ["--model", options.model, "--dataset", options.dataset, *SHARED, *others]
    base = open_base(options.model).model
    family, layers = base.config.model_type, base.config.num_hidden_layers
    if options.layer is not None and not 0 <= options.layer < layers:
        raise ConfigError(f"found {options.layer}", where="--layer", expected=f"0 to {layers - 1}")
    first = ["--preset", BASIC]
    runs = {run_place(folder, *training): [*first, *shared, *flags(family, *training)] for training in plan.trainings()}
    check_same_flags(folder, shared)
    train_all(TRAIN, runs, processes=options.processes)
    figures = collect(folder, plan, family, depth=options.layer)
    write_json(folder / "section7.json", figures)
    tables, source = section7_tables(figures), command_line()
    for title, table in tables.items():
        print(f"{title}\n\n{markdown_table(table)}\n")
    page = section7_page(figures, source=source)
    names = write_figures(folder, page)
    write_text(folder / "section7.md", "\n\n".join(document(tables, names, source=source)) + "\n")
    print(write_page(folder / "report.html", page))


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Read and check the flags of the replay; return the flags of train with them."""
    parser = argument_parser((__doc__ or "").format(shared=shlex.join(SHARED)))
    parser.add_argument("--config", metavar="FILE", help="flags from this YAML or JSON file, those of train too")
    parser.add_argument("--model", required=True, help="hub name or folder of a pretrained encoder, or `demo`")
    parser.add_argument("--dataset", required=True, help="as for train")
    parser.add_argument("--output_dir", required=True, help="folder of the replay, new or started before")
    parser.add_argument("--budget", type=int, default=8, help="rank of one adapted matrix; two have half of it each (8)")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4, 8, 64], help="ranks; the last two are compared")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], help="one training of each variant with each (default: 0)"
    )
    parser.add_argument("--layer", type=int, help="the layer whose heat maps are drawn (default: the middle one)")
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time, one thread each (default: 2)")
    options, others = parser.parse_known_args(with_config(sys.argv[1:], parser, flag_parser(TRAIN_OPTIONS, "")))
    check_given(parser, options)
    if not 1 <= options.processes <= MOST_PROCESSES:
        parser.error(f"--processes: found {options.processes}; expected 1 to {MOST_PROCESSES}")
    taken = [flag for flag in others if flag.split("=")[0] in OURS]
    if taken:
        parser.error(f"{taken[0]} is set for each training: use --seeds, --budget and --ranks")
    return options, others


def write_figures(folder: Path, page: Page) -> list[tuple[str, str]]:
    """Write every picture of the page to a file; return the file names and the descriptions."""
    pictures = [picture for section in page.sections for picture in section.pictures]
    for number, picture in enumerate(pictures, 1):
        write_text(folder / f"figure-{number}.svg", picture.svg + "\n")
    return [(f"figure-{number}.svg", picture.words) for number, picture in enumerate(pictures, 1)]


def document(tables: dict[str, Table], figures: list[tuple[str, str]], *, source: str) -> Iterator[str]:
    """Yield the paragraphs of section7.md."""
    yield "# Section 7 of the LoRA paper, replayed"
    yield f"```bash\n{source}\n```"
    for title, table in tables.items():
        yield f"## {title}"
        yield markdown_table(table)
    for name, words in figures:
        yield f"![{words}]({name})"


if __name__ == "__main__":
    run_command(main)
