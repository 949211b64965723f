"""A walk through one layer of an adapter on one text: the formula with its numbers, the tokens it moved, what it decides.

    lora-scratch explain checkpoints/demo/adapter "i am so happy today"
    lora-scratch explain checkpoints/demo/adapter "i am so happy today" --module layer.1.attention.q_lin

The layer is computed in float64 on the input that it really had; the last line says how near the model's own float32 is.
"""

from __future__ import annotations

from torch import Tensor

from lora_scratch.errors import printable
from lora_scratch.runs import add_adapter, argument_parser, check_given, open_adapter, run_command
from lora_scratch.study.explain import Explanation, explain

WIDTH = 40  # letters of the longest bar
SHOWN = 4  # leading numbers of a step
LONGEST_TOKEN = 24  # letters


def main() -> None:
    """Layer, steps, tokens and predictions, in this order."""
    parser = argument_parser(__doc__)
    add_adapter(parser)
    parser.add_argument("text", metavar="TEXT", help="the text to follow")
    parser.add_argument(
        "--module", metavar="NAME", help="adapted layer, or the end of its name (default: the one moved most)"
    )
    parser.add_argument("--tokens", type=int, default=20, help="how many of the tokens moved most are listed (default: 20)")
    options = parser.parse_args()
    check_given(parser, options)
    if options.tokens < 1:
        parser.error(f"--tokens: found {options.tokens}; expected at least 1")
    found = explain(open_adapter(options.adapter, model=options.model), options.text, module=options.module)
    print("\n\n".join([layer(found), steps(found), tokens(found, most=options.tokens), predictions(found)]))


def layer(found: Explanation) -> str:
    """Which layer, its formula and its shapes."""
    trace = found.trace
    shapes = ", ".join(f"{name} {shape(size)}" for name, size in trace.shapes.items())
    lines = [
        f"layer    {found.name}",
        f"kind     {type(found.layer).__name__} on {type(found.layer.base).__name__}",
        f"formula  {trace.formula}",
        f"shapes   {shapes}",
        *([f"scaling  {trace.scaling}"] if trace.scaling else []),
        *([f"         not shown: {trace.unseen}"] if trace.unseen else []),
    ]
    return "\n".join(lines)


def steps(found: Explanation) -> str:
    """One line a step: shape, norm, and the first numbers of the row that was moved most."""
    row = int(found.trace.moved().argmax())
    all_steps = found.trace.steps
    width = max(len(step.symbol) for step in all_steps)
    columns = f"{'shape':<12} {'norm':>10}  {'of this row':>11}  first numbers of row {row + 1}, {name(found, row)}"
    title = f"{'step':<{width}}  {columns}"
    lines = [
        f"{step.symbol:<{width}}  {shape(step.value.shape):<12} {step.value.norm():>10.4f}  "
        f"{step.value[row].norm():>11.4f}  {numbers(step.value[row])}"
        for step in all_steps
    ]
    own = f"The model's own y differs by {found.rounding:.1e} of its largest number."
    return "\n".join([title, *lines, own])


def tokens(found: Explanation, *, most: int) -> str:
    """A bar for each of the tokens that the layer moved most: the norm of its update over that of its base output."""
    moved = found.trace.moved()
    order = moved.argsort(descending=True, stable=True).tolist()[:most]
    top = moved[order[0]].item()
    longest = max(len(name(found, row)) for row in order)
    lines = [f"{row + 1:>4}  {name(found, row):<{longest}}  {bar(moved[row].item(), top)}" for row in order]
    left = len(moved) - len(order)
    return "\n".join(["moved most: |update| / |base output|", *lines, *([f"and {left} less"] if left else [])])


def bar(value: float, top: float) -> str:
    """The number, and as many marks as it is long beside the longest."""
    return f"{value:>8.4f}  {'#' * round(WIDTH * value / top) if top else ''}".rstrip()


def predictions(found: Explanation) -> str:
    """The probability of every label with and without the layer's update, and without the whole adapter."""
    columns = list(found.scores)
    labels = list(found.scores[columns[0]])
    width = max(len(printable(label)) for label in ["label", *labels])
    best = {column: max(scores, key=lambda label: scores[label]) for column, scores in found.scores.items()}
    lines = [
        f"{printable(label):<{width}}"
        + "".join(f"  {found.scores[c][label]:>{len(c)}.4f}{'*' if best[c] == label else ' '}" for c in columns)
        for label in labels
    ]
    note = "* the label that is predicted; without the adapter the head is as it was before training, too"
    return "\n".join([f"{'label':<{width}}" + "".join(f"  {column} " for column in columns), *lines, note])


def shape(size: tuple[int, ...]) -> str:
    """`(14, 384)`."""
    return f"({', '.join(map(str, size))})"


def numbers(row: Tensor) -> str:
    """The first few."""
    more = " ..." if len(row) > SHOWN else ""
    return " ".join(f"{value:+.4f}" for value in row[:SHOWN].tolist()) + more


def name(found: Explanation, row: int) -> str:
    """What the row is, short enough for a line."""
    return printable(found.rows[row])[:LONGEST_TOKEN]


if __name__ == "__main__":
    run_command(main)
