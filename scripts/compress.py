"""The smallest adapter that is not significantly worse: in every module the ranks that carry the update, written for PEFT.

    lora-scratch compress checkpoints/demo/adapter --output small
    lora-scratch compress checkpoints/demo/adapter --output small --energies 1 0.9 0.8 0.7 --json compression.json

The strongest singular directions of all modules together are kept until they hold a share of the energy, the sum of all
|dW|^2. The shares are tried from the largest down on the validation rows, each against the whole adapter, until one is
significantly worse (McNemar, exact, p < 0.05); the one before it is measured once on the test rows and written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lora_scratch.arithmetic.compress import (
    ENERGIES,
    Candidate,
    Compression,
    compress,
    describe,
    save_compression,
)
from lora_scratch.errors import ConfigError
from lora_scratch.evaluation import Predictor, Table, markdown_table
from lora_scratch.runs import (
    COLUMN_FLAGS,
    add_adapter,
    add_shared,
    argument_parser,
    check_free,
    check_given,
    check_reports,
    command_line,
    encode_rows,
    named_columns,
    open_adapter,
    open_rows,
    run_command,
)
from lora_scratch.runtime.atomic import write_json
from lora_scratch.runtime.device import resolve_device
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.tasks.task import WORSE

COLUMNS = ["energy kept", "modules", "ranks", "numbers", "bytes", "score", "change", "fixed", "broken", "p", "verdict"]


def main() -> None:
    """Open the adapter, search, print the tables, write the chosen one."""
    options = parse()
    place = check_free(Path(options.output), flag="--output")
    check_reports(options)
    saved = open_adapter(options.adapter, model=options.model, labels=options.labels)
    wanted = options.precision or saved.precision
    precision = resolve_precision(wanted, resolve_device(options.device))
    splits, max_tokens = open_rows(
        saved, dataset=options.dataset, limit_eval=options.limit_eval, columns=named_columns(options)
    )
    validation, test = (encode_rows(rows, saved.base, max_tokens=max_tokens) for rows in (splits.validation, splits.test))
    model = saved.base.model.to(precision.device)
    predict = Predictor(model, precision, saved.base.pad_token_id).logits
    result = compress(saved, predict, validation=validation, test=test, energies=options.energies)
    print(f"{candidates(result)}\n\n{modules(result)}\n\n{describe(result)}")
    if options.json:
        write_json(Path(options.json), result.as_json())
    if result.tested.word == WORSE:
        remedy = "nothing is written; try larger --energies, or choose on more validation rows"
        raise ConfigError("significantly worse on the test rows", where=options.adapter, remedy=remedy)
    save_compression(saved, result, place, command=command_line())
    print(f"\nadapter: {place}")


def parse() -> argparse.Namespace:
    """Read and check the command line."""
    parser = argument_parser(__doc__)
    add_adapter(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="where the adapter goes; must not hold files yet")
    shares = " ".join(f"{energy:g}" for energy in ENERGIES)
    parser.add_argument(
        "--energies",
        nargs="+",
        type=float,
        default=ENERGIES,
        metavar="SHARE",
        help=f"shares of the energy to try, above 0 and at most 1 (default: {shares})",
    )
    add_shared(parser, "dataset", *COLUMN_FLAGS, "limit_eval", "precision", "device", "json")
    options = parser.parse_args()
    check_given(parser, options)
    wrong = [energy for energy in options.energies if not 0 < energy <= 1]
    if wrong:
        parser.error(f"--energies: found {wrong[0]:g}; expected above 0 and at most 1")
    return options


def candidates(result: Compression) -> str:
    """Return a row for the whole adapter and for every candidate, on the validation rows."""
    size = result.size
    whole = ["whole", *shape(result.ranks), f"{size.parameters:,}", f"{size.file_bytes:,}"]
    rows = [[*whole, f"{result.validation:.4f}", *[""] * 5]]
    rows += [row(candidate, chosen=candidate is result.chosen) for candidate in result.candidates]
    return markdown_table(Table(COLUMNS, rows))


def row(candidate: Candidate, *, chosen: bool) -> list[str]:
    """Return the cells of one candidate."""
    size, test = candidate.size, candidate.validation
    return [
        f"{candidate.kept:.2%}{' (chosen)' if chosen else ''}",
        *shape(candidate.ranks),
        f"{size.parameters:,}",
        f"{size.file_bytes:,}",
        f"{test.score:.4f}",
        f"{test.change:+.4f}",
        str(test.fixed),
        str(test.broken),
        f"{test.p_value:.2g}",
        test.word,
    ]


def shape(ranks: dict[str, int]) -> tuple[str, str]:
    """Return the number of adapted modules, and the lowest and highest rank."""
    kept = [rank for rank in ranks.values() if rank]
    return str(len(kept)), f"{min(kept)} to {max(kept)}"


def modules(result: Compression) -> str:
    """Return a row for every module: its rank before and after."""
    kept = result.chosen.ranks
    rows = [[name, str(rank), str(kept[name])] for name, rank in result.ranks.items()]
    return markdown_table(Table(["module", "rank", "kept"], rows))


if __name__ == "__main__":
    run_command(main)
