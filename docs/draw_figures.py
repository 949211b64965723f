"""Draw the pictures of these pages to docs/assets: SVG that follows the reader's light or dark theme.

    lora-scratch train --threads 1 --output_dir checkpoints/figures
    lora-scratch ablate checkpoints/figures/adapter --json checkpoints/figures/ablation.json
    lora-scratch section7 --model demo --dataset demo --ranks 8 32 --layer 1 --limit_train 2400 --epochs 3 \
        --learning_rate 5e-3 --output_dir checkpoints/subspaces
    python docs/draw_figures.py --run checkpoints/figures --section7 checkpoints/subspaces

Without flags it draws only the pictures of the tables in docs/results.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lora_scratch.reporting.drawing import Line, bar_panel, grouped_bars, heat_panel, line_panel, svg

DOCS = Path(__file__).parent
STYLE = "<style>svg{color:#1f2430}@media (prefers-color-scheme:dark){svg{color:#e8ebf2}}</style>"
PLACES = re.compile(r' (?:d|x|y|transform)="[^"]*"')
DARK = re.compile(r"@media \(prefers-color-scheme: ?dark\)\s*\{((?:[^{}]*\{[^{}]*\})*)\s*\}")
README = ("lora", "confusion")  # the pictures of README.md
LONG = re.compile(r"(\d\.\d\d)\d+")  # a hundredth of a point is enough
Row = dict[str, str]


def main() -> None:
    """Write every picture that the flags and the tables have figures for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a run, with ablation.json in it")
    parser.add_argument("--section7", type=Path, help="folder that the command section7 wrote")
    parser.add_argument("--output", type=Path, default=DOCS / "assets", help="folder for the pictures")
    options = parser.parse_args()
    pictures = {**table_pictures(), **(run_pictures(options.run) if options.run else {})}
    if options.section7:
        pictures["subspaces"] = subspaces(_read(options.section7 / "section7.json"))
    options.output.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (options.output / f"{name}.svg").write_text(themed(picture), encoding="utf-8")
    for name in README:
        if (source := options.output / f"{name}.svg").exists():
            write_themes(source, options.output / "readme")
    print(f"{len(pictures)} pictures in {options.output}")


def themed(picture: str) -> str:
    """Return the drawing with dark ink on a light page and light ink on a dark one."""
    end = picture.index(">", picture.index("<svg")) + 1
    drawn = PLACES.sub(lambda places: LONG.sub(r"\1", places[0]), picture[end:])
    lines = (line.rstrip() for line in (picture[:end] + STYLE + drawn).splitlines())
    return "\n".join(lines) + "\n"


def write_themes(source: Path, folder: Path) -> None:
    """Write a picture once for light and once for dark pages: a README's page has a theme of its own."""
    folder.mkdir(exist_ok=True)
    for theme in ("light", "dark"):
        (folder / f"{source.stem}-{theme}.svg").write_text(one_theme(source.read_text("utf-8"), theme), encoding="utf-8")


def one_theme(picture: str, theme: str) -> str:
    """Return the picture with the colors of one theme alone."""
    return DARK.sub(lambda block: block[1] if theme == "dark" else "", picture)


def table_pictures() -> dict[str, str]:
    """Return the pictures of what is measured and written down in docs/results."""
    return {"speed": speed(), "ladder": ladder(), "parts": parts(), "ranks": ranks()}


def run_pictures(run: Path) -> dict[str, str]:
    """Return the pictures of one run: its training, its rows before and after, its adapter."""
    report, ablation = _read(run / "report.json"), _read(run / "ablation.json")
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "training": training([json.loads(line) for line in lines]),
        "confusion": confusion(report),
        "spectrum": spectrum(report["anatomy"]),
        "modules": modules(ablation),
    }


def table(page: str, first: str) -> list[Row]:
    """Return the rows of the table in a page of docs/results whose header starts with `first`."""
    text = (DOCS / "results" / page).read_text(encoding="utf-8")
    block = text[text.index(f"| {first} |") :].split("\n\n")[0]
    header, _, *rows = ([cell.strip() for cell in line.strip("| ").split("|")] for line in block.splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def number(cell: str) -> float:
    """Return the first number of a cell."""
    return float(re.findall(r"-?[\d.]+", cell.replace(",", ""))[0])


def speed() -> str:
    """Draw tokens a second of every contender of the benchmark."""
    first = "training, AVX-512 bf16"
    values = {_shorter(row[first]): number(row["tokens/s"]) for row in table("benchmark.md", first)}
    return _drawn("Training, tokens a second", values, lambda axes: bar_panel(axes[0], values, x="tokens a second"))


def ladder() -> str:
    """Draw the accuracy of every rung of the ladder, with its spread over seeds."""
    rows = table("study.md", "rung")
    values = {_shorter(row["rung"]): number(row["accuracy"]) for row in rows}
    errors = [number(row["accuracy"].split("±")[1]) if "±" in row["accuracy"] else 0.0 for row in rows]
    return _drawn("Test accuracy", values, lambda axes: bar_panel(axes[0], values, x="test accuracy", errors=errors))


def parts() -> str:
    """Draw the accuracy without a part of MiniLM's adapter, and with only that part."""
    rows = table("study.md", "part")
    kinds = {f"accuracy {kind}": [number(row[f"accuracy {column}"]) for row in rows] for kind, column in _SIDES.items()}
    names = [row["part"] for row in rows]
    values = {f"{name}, {kind}": value for kind, column in kinds.items() for name, value in zip(names, column, strict=True)}
    return _drawn("Parts", values, lambda axes: grouped_bars(axes[0], names, kinds, x="validation accuracy"), height=4.2)


_BRIEF = {
    "PEFT + Trainer": "PEFT",
    "the same with fp32 products through oneDNN": "PEFT, through oneDNN",
    "random head left as it is": "random head",
    "lora-scratch": "ours",
}
_SIDES = {"without it": "without", "with only it": "with only it"}


def ranks() -> str:
    """Draw the accuracy over the rank, from section 7.2."""
    rows = table("section7.md", "test accuracy at rank")
    steps = [int(name) for name in rows[0] if name.isdigit()]
    lines = [Line(row["test accuracy at rank"], steps, [number(row[str(rank)]) for rank in steps]) for row in rows]
    values = {f"{line.name} at rank {rank}": y for line in lines for rank, y in zip(steps, line.y, strict=True)}

    def draw(axes: list[Any]) -> None:
        line_panel(axes[0], lines, title="", x="rank", y="test accuracy")
        axes[0].set_xscale("log", base=2)
        axes[0].minorticks_off()
        axes[0].set_xticks(steps, list(map(str, steps)))

    return _drawn("Test accuracy", values, draw)


def training(events: list[dict[str, Any]]) -> str:
    """Draw the loss of every step and the accuracy on the validation rows."""
    steps = [event for event in events if event["event"] == "step"]
    checks = [event for event in events if event["event"] == "validation"]
    loss = Line("training", [event["step"] for event in steps], [event["loss"] for event in steps])
    checked = Line("validation", [event["step"] for event in checks], [event["loss"] for event in checks])
    scores = Line("accuracy", checked.x, [event["accuracy"] for event in checks])

    def draw(axes: list[Any]) -> None:
        line_panel(axes[0], [loss, checked], title="loss (nats)", x="step", y="")
        line_panel(axes[1], [scores], title="validation accuracy", x="step", y="")
        axes[1].set_ylim(0, 1)
        axes[1].set_xlim(0)

    values = {f"step {step}": score for step, score in zip(scores.x, scores.y, strict=True)}
    return _drawn("Loss by step, and validation accuracy", values, draw, panels=2)


def confusion(report: Mapping[str, Any]) -> str:
    """Draw what was said of the rows of each class, before and after, as shares."""
    labels, shares = report["labels"], {}
    for side in ("baseline", "adapted"):
        shares[side] = [[cell / sum(row) or None for cell in row] for row in report["confusion"][side]]
    values = {f"{side} accuracy": report[side]["accuracy"] for side in shares}

    def draw(axes: list[Any]) -> None:
        for panel, (side, grid) in zip(axes, shares.items(), strict=True):
            title = f"{side}: {report[side]['accuracy']:.3f}"
            heat_panel(panel, grid, rows=labels, columns=labels, title=title, x="predicted", number=".2f", full=1)
        axes[0].set(ylabel="label of the row")

    return _drawn("Shares of every class by prediction", values, draw, panels=2, height=3.4)


def spectrum(anatomy: list[dict[str, Any]]) -> str:
    """Draw the singular values of every module's ΔW."""
    lines = [Line(_place(row["name"]), range(1, len(row["singular_values"]) + 1), row["singular_values"]) for row in anatomy]
    values = {f"largest of {line.name}": line.y[0] for line in lines}
    labels = {"title": "", "x": "number of the direction", "y": "singular value of ΔW"}
    return _drawn("Spectra of ΔW", values, lambda axes: line_panel(axes[0], lines, **labels))


def modules(ablation: Mapping[str, Any]) -> str:
    """Draw the points of accuracy that are lost without each module, layer by projection."""
    trials = [trial for trial in ablation["trials"] if trial["group"] == "module" and trial["what"] == "without"]
    lost = {_place(trial["name"]): -100 * trial["found"]["change"] for trial in trials}
    rows, columns = sorted({name[0] for name in lost}), list(dict.fromkeys(name[2:] for name in lost))
    grid = [[lost.get(f"{row} {column}") for column in columns] for row in rows]
    layers = [f"layer {row}" for row in rows]

    def draw(axes: list[Any]) -> None:
        heat_panel(axes[0], grid, rows=layers, columns=columns, number=".1f")

    return _drawn("Points of accuracy lost without a module", lost, draw, height=2.2)


def subspaces(figures: Mapping[str, Any]) -> str:
    """Draw φ of the directions that two ranks find, for A of every projection."""
    grids = {row["kind"]: row["grid"] for row in figures["between_ranks"] if row["of"] == "A"}
    values = {f"{kind} φ(1,1)": grid[0][0] for kind, grid in grids.items()}

    def draw(axes: list[Any]) -> None:
        for panel, (kind, grid) in zip(axes, grids.items(), strict=True):
            rows, columns = ([str(k + 1) for k in range(size)] for size in (len(grid), len(grid[0])))
            title = f"A of {kind}: {len(rows)} and {len(columns)} directions"
            heat_panel(panel, grid, rows=rows, columns=columns, title=title, x="j", y="i", full=1)
            panel.set_xticks([k - 0.5 for k in range(4, len(columns) + 1, 4)], list(map(str, range(4, len(columns) + 1, 4))))

    return _drawn("Shared directions of two ranks", values, draw, panels=len(grids))


def _drawn(title: str, values: Mapping[str, float], draw: Callable[[list[Any]], object], **size: Any) -> str:
    listed = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    return svg(draw, words=f"{title}: {listed}", **size)


def _shorter(name: str) -> str:
    """Return the name of a contender in at most 24 characters."""
    for long, brief in _BRIEF.items():
        name = name.replace(long, brief)
    return name.split(":")[0]


def _place(name: str) -> str:
    """Return `0 query` for a module of layer 0."""
    layer = re.findall(r"\.(\d+)\.", name)[0]
    return f"{layer} {name.rpartition('.')[2]}"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
