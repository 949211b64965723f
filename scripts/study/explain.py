"""Explain one layer of an adapter on one text: its formula with numbers, tokens, predictions.

    lora-scratch explain checkpoints/demo/adapter "i am so happy today"
    lora-scratch explain checkpoints/demo/adapter "i am so happy today" --module layer.1.attention.q_lin
    lora-scratch explain checkpoints/mrpc/adapter "he left early" --pair "he went home before the end"

The layer is computed in float64 on its real input. One line says how far the model's own float32
result is from that.
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
    """Print the layer, the steps, the tokens and the predictions."""
    parser = argument_parser(__doc__)
    add_adapter(parser)
    parser.add_argument("text", metavar="TEXT", help="the text to follow")
    parser.add_argument("--pair", metavar="TEXT", help="the second text, for an adapter of pairs")
    parser.add_argument(
        "--module", metavar="NAME", help="adapted layer, or the end of its name (default: the one moved most)"
    )
    parser.add_argument("--tokens", type=int, default=20, help="how many of the tokens moved most are listed (default: 20)")
    options = parser.parse_args()
    check_given(parser, options)
    if options.tokens < 1:
        parser.error(f"--tokens: found {options.tokens}; expected at least 1")
    saved = open_adapter(options.adapter, model=options.model, labels=options.labels)
    result = explain(saved, options.text, pair=options.pair, module=options.module)
    moved = tokens(result, most=options.tokens)
    print("\n\n".join([layer(result), steps(result), moved, predictions(result)]))


def layer(result: Explanation) -> str:
    """Return the name of the layer, its formula and its shapes."""
    trace = result.trace
    shapes = ", ".join(f"{name} {shape(size)}" for name, size in trace.shapes.items())
    lines = [
        f"layer    {result.name}",
        f"kind     {type(result.layer).__name__} on {type(result.layer.base).__name__}",
        f"formula  {trace.formula}",
        f"shapes   {shapes}",
        *([f"scaling  {trace.scaling}"] if trace.scaling else []),
        *([f"         not shown: {trace.unseen}"] if trace.unseen else []),
    ]
    return "\n".join(lines)


def steps(result: Explanation) -> str:
    """Return a line for every step: shape, norm, first numbers of the row that was moved most."""
    row = int(result.trace.moved().argmax())
    all_steps = result.trace.steps
    width = max(map(len, all_steps))
    first = f"first numbers of row {row + 1}, {name(result, row)}"
    columns = f"{'shape':<12} {'norm':>10}  {'of this row':>11}  {first}"
    title = f"{'step':<{width}}  {columns}"
    lines = [
        f"{symbol:<{width}}  {shape(value.shape):<12} {value.norm():>10.4f}  "
        f"{value[row].norm():>11.4f}  {numbers(value[row])}"
        for symbol, value in all_steps.items()
    ]
    own = f"The model's own y differs by {result.rounding:.1e} of its largest number."
    return "\n".join([title, *lines, own])


def tokens(result: Explanation, *, most: int) -> str:
    """Return a bar of ‖update‖ / ‖base output‖ for each of the tokens that were moved most."""
    moved = result.trace.moved()
    order = moved.argsort(descending=True, stable=True).tolist()[:most]
    top = moved[order[0]].item()
    longest = max(len(name(result, row)) for row in order)
    lines = [f"{row + 1:>4}  {name(result, row):<{longest}}  {bar(moved[row].item(), top)}" for row in order]
    left = len(moved) - len(order)
    more = [f"and {left} less"] if left else []
    return "\n".join(["moved most: |update| / |base output|", *lines, *more])


def bar(value: float, top: float) -> str:
    """Return the number, and marks in proportion to the longest bar."""
    return f"{value:>8.4f}  {'#' * round(WIDTH * value / top) if top else ''}".rstrip()


def predictions(result: Explanation) -> str:
    """Return the number of every label: with all, without the layer, without the adapter."""
    columns = list(result.scores)
    labels = list(result.scores[columns[0]])
    width = max(len(printable(label)) for label in ["label", *labels])
    chosen = {column: labels or [] for column, labels in result.chosen.items()}
    lines = [
        f"{printable(label):<{width}}"
        + "".join(f"  {result.scores[c][label]:>{len(c)}.4f}{'*' if label in chosen[c] else ' '}" for c in columns)
        for label in labels
    ]
    head = "without the adapter the head is as it was before training, too"
    numbers = all(labels is None for labels in result.chosen.values())
    note = f"the number that is predicted; {head}" if numbers else f"* predicted; {head}"
    return "\n".join([f"{'label':<{width}}" + "".join(f"  {column} " for column in columns), *lines, note])


def shape(size: tuple[int, ...]) -> str:
    """Return a shape as `(14, 384)`."""
    return f"({', '.join(map(str, size))})"


def numbers(row: Tensor) -> str:
    """Return the first numbers of a row."""
    more = " ..." if len(row) > SHOWN else ""
    return " ".join(f"{value:+.4f}" for value in row[:SHOWN].tolist()) + more


def name(result: Explanation, row: int) -> str:
    """Return the name of a row, cut to fit a line."""
    return printable(result.rows[row])[:LONGEST_TOKEN]


if __name__ == "__main__":
    run_command(main)
