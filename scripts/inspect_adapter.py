"""What an adapter learnt, module by module; or whether its folder is what it should be.

    lora-scratch inspect checkpoints/demo/adapter
    lora-scratch inspect checkpoints/demo/adapter --json anatomy.json --html anatomy.html --figures pictures
    lora-scratch inspect checkpoints/demo/adapter --verify --model demo      exit code 1 if anything is wrong

Columns, dW the update and W the base weight:
  |dW|/|W|    how large the update is (Frobenius norms)
  stable      |dW|^2 over its largest singular value squared: 1 if one direction does it all, at most the rank
  effective   exp of the entropy of the singular values: how many directions there are if weak ones count too
  aligned     the share of |dW|^2 within the `rank` leading directions of W: 0 if the update does something new
  intruders   how many of the 10 leading directions of W + dW resemble none of W (cosine below 0.6)
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_scratch.errors import AdapterFileError, printable
from lora_scratch.evaluation import Table, aligned_table
from lora_scratch.reporting import anatomy_page, write_page
from lora_scratch.runs import (
    add_adapter,
    add_shared,
    argument_parser,
    check_given,
    check_reports,
    local_adapter,
    open_adapter,
    problems_with_base,
    run_command,
)
from lora_scratch.runtime.atomic import write_bytes, write_json
from lora_scratch.serialization import problems_in_folder
from lora_scratch.study.anatomy import Anatomy, anatomy, shares_by_depth, shares_by_projection

COLUMNS = ["module", "rank", "|dW|/|W|", "stable", "effective", "aligned", "intruders"]


def main() -> None:
    """The table, or the problems."""
    parser = argument_parser(__doc__)
    add_adapter(parser)
    add_shared(parser, "json", "html", json={"help": "write every figure and singular value to this file too"})
    parser.group("results").add_argument("--figures", metavar="DIR", help="draw pictures to this folder")
    parser.add_argument("--verify", action="store_true", help="report all that is wrong instead; the base only with --model")
    options = parser.parse_args()
    check_given(parser, options)
    if options.verify:
        if flags := [f"--{name}" for name in ("json", "html", "figures") if getattr(options, name)]:
            parser.error(f"{flags[0]} does not go with --verify")
        verify(local_adapter(options.adapter), model=options.model, labels=options.labels)
        return
    check_reports(options)
    rows = anatomy(open_adapter(options.adapter, model=options.model, labels=options.labels).base.model)
    shares = {"projection": shares_by_projection(rows), "depth": shares_by_depth(rows)}
    print(table(rows, shares))
    if options.figures:
        draw(rows, Path(options.figures))
    if options.html:
        write_page(Path(options.html), anatomy_page(rows, title=printable(f"Anatomy of {options.adapter}")))
    if options.json:
        write_json(Path(options.json), {"modules": [asdict(row) for row in rows], "shares": shares})


def verify(folder: Path, *, model: str | None, labels: list[str] | None) -> None:
    """Print what was looked at if all is well.

    Raises:
        AdapterFileError: everything that is wrong, printed line by line before.
    """
    problems = problems_in_folder(folder)
    found = [] if model is None else problems_with_base(folder, model=model, labels=labels)
    problems += [problem for problem in found if not any(known.endswith(problem) for known in problems)]
    for problem in problems:
        print(f"wrong: {printable(problem)}")
    if problems:
        number = f"{len(problems)} thing{'s' if len(problems) > 1 else ''} wrong"
        raise AdapterFileError([number], where=str(folder), remedy="copy the adapter folder again, or train it again")
    print(f"{folder}: nothing wrong with the files{'' if model is None else f', nor with its fit to {model}'}")


def table(rows: Sequence[Anatomy], shares: Mapping[str, Mapping[str, float]]) -> str:
    """One line a module, then the shares of the squared norm of all updates."""
    cells = [
        [
            row.name,
            str(row.rank),
            f"{row.relative_norm:.4f}",
            f"{row.stable_rank:.2f}",
            f"{row.effective_rank:.2f}",
            f"{row.alignment:.4f}",
            str(row.intruders),
        ]
        for row in rows
    ]
    parts = [
        f"share of |dW|^2 by {by}: " + ", ".join(f"{name} {share:.1%}" for name, share in part.items())
        for by, part in shares.items()
    ]
    return "\n".join([aligned_table(Table(COLUMNS, cells)), "", *parts])


def draw(rows: Sequence[Anatomy], folder: Path) -> None:
    """Draw `spectrum.png`, the singular values of every module, and `norms.png`, how far each was moved."""
    from matplotlib.figure import Figure  # slow to import

    spectrum: Any = Figure(figsize=(9, 5), layout="constrained")
    axes = spectrum.subplots()
    for row in rows:
        axes.plot(range(1, row.rank + 1), row.singular_values, marker=".", label=row.name)
    axes.set(xlabel="number", ylabel="singular value of the update", ylim=(0, None))
    axes.legend(fontsize=5, ncols=2)
    write_bytes(folder / "spectrum.png", png(spectrum))
    norms: Any = Figure(figsize=(9, 1.5 + 0.22 * len(rows)), layout="constrained")
    axes = norms.subplots()
    axes.barh([row.name for row in rows], [row.relative_norm for row in rows])
    axes.set(xlabel="norm of the update / norm of the weight")
    axes.invert_yaxis()
    write_bytes(folder / "norms.png", png(norms))


def png(figure: Any) -> bytes:
    """The picture as a file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


if __name__ == "__main__":
    run_command(main)
