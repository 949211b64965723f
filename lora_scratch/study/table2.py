"""Table 2 of the LoRA paper on another model: its tasks, its figures, and its protocol beside an honest one.

    paper     train on all training rows; take the best epoch on the validation rows; report it on the same rows
    honest    take the best epoch on a tenth of the training rows, held out; report it on the validation rows

The paper's choice is made on the rows that are reported, so its figures are a little too high.

Source: Hu et al. 2021, LoRA, arXiv:2106.09685, table 2, the rows of RoBERTa-base. Its figures of full
    fine-tuning and of BitFit are from Liu et al. 2019 and Ben Zaken et al. 2022.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.checked_rows import CheckedRows
from ..data.columns import Columns
from ..data.holdout import hold_out
from ..data.layouts import LAYOUTS
from ..data.rows import Row
from ..data.split_tables import SplitTables, open_source
from ..errors import DataError, LoraScratchError
from ..evaluation import Table
from ..runtime.atomic import write_text
from ..tasks import REGRESSION, SINGLE_LABEL, TITLES
from .methods import RunResult

PAPER, HONEST = PROTOCOLS = ("paper", "honest")
PAPERS_MODEL = "RoBERTa-base"
HELD_OUT_SHARE = 0.1
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class PaperTask:
    """A task of the table.

    Args:
        metric: the score of tasks/ that the paper reports.
        columns: the names of the columns in the layouts that there are: the hub's, then that of GLUE's archive.
        paper: the paper's figures by method, in percent.
    """

    metric: str
    columns: tuple[Columns, ...]
    paper: Mapping[str, float] = field(default_factory=dict)
    kind: str = SINGLE_LABEL


def _figures(full: float, bitfit: float, lora: float) -> dict[str, float]:
    return {"full": full, "bitfit": bitfit, "lora": lora}


_PAIR, _SENTENCE, _QUESTION = LAYOUTS["RTE and WNLI"], LAYOUTS["SST-2 and CoLA"], LAYOUTS["QNLI"]
_MNLI, _QQP = (LAYOUTS["MNLI of the hub"], LAYOUTS["MNLI"]), (LAYOUTS["QQP of the hub"], LAYOUTS["QQP"])
TASKS = {
    "mnli": PaperTask("accuracy", _MNLI, _figures(87.6, 84.7, 87.5)),
    "sst2": PaperTask("accuracy", (_SENTENCE,), _figures(94.8, 93.7, 95.1)),
    "mrpc": PaperTask("accuracy", (_PAIR, LAYOUTS["MRPC"]), _figures(90.2, 92.7, 89.7)),
    "cola": PaperTask("matthews", (_SENTENCE,), _figures(63.6, 62.0, 63.4)),
    "qnli": PaperTask("accuracy", (_QUESTION,), _figures(92.8, 91.8, 93.3)),
    "qqp": PaperTask("accuracy", _QQP, _figures(91.9, 84.0, 90.8)),
    "rte": PaperTask("accuracy", (_PAIR,), _figures(78.7, 81.5, 86.6)),
    "stsb": PaperTask("pearson", (_PAIR, LAYOUTS["STS-B"]), _figures(91.2, 90.8, 91.5), kind=REGRESSION),
    "sick": PaperTask("pearson", (Columns("sentence_A", "relatedness_score", "sentence_B"),), kind=REGRESSION),  # not in it
}


def folder_of(name: str, data: Path) -> Path:
    """Return the folder of a task's rows in `data`: `mrpc` or, as in GLUE's archive, `MRPC`; `stsb` or `STS-B`."""
    try:
        inner = sorted(data.iterdir())
    except OSError:
        inner = []
    return next((path for path in inner if path.name.replace("-", "").casefold() == name), data / name)


def write_rows(task: PaperTask, source: str, folder: Path, *, skip_bad_rows: bool = False) -> list[str]:
    """Write the rows of both protocols: FOLDER/paper and FOLDER/honest, each with three files.

    Returns:
        Lines that say what was decided about the rows, and which were left out.

    Raises:
        DataError: a row that can't be used, or no train or validation rows in a known layout.
    """
    opened = _open(task, source)
    if missing := [name for name in SPLITS[:2] if name not in opened.tables]:
        raise DataError(f"there is no {missing[0]} split", where=source, expected="train and validation")
    checked = CheckedRows(skip_bad_rows=skip_bad_rows)
    train, validation = (
        checked.in_task(
            checked.usable(opened.tables[name].rows, where=f"{source} ({name})"), task.kind, where=f"{source} ({name})"
        )
        for name in SPLITS[:2]
    )
    few = max(1, round(HELD_OUT_SHARE * len(train)))
    rest, held_out = hold_out(train, few, seed=0, name="table 2", task=task.kind)
    for protocol, parts in {PAPER: (train, validation, validation), HONEST: (rest, held_out, validation)}.items():
        for name, rows in zip(SPLITS, parts, strict=True):
            (folder / protocol).mkdir(parents=True, exist_ok=True)
            write_text(folder / protocol / f"{name}.jsonl", "".join(_line(row, task.kind) for row in rows))
    counts = f"{len(train):,} training rows, {len(validation):,} validation rows"
    return [counts, *opened.notes, *(f"left out {row}" for row in checked.skipped)]


def data_flags(task: PaperTask, folder: Path) -> list[str]:
    """Return the flags of train for the rows that `write_rows` wrote to `folder`, and for the score that chooses."""
    pair = ["--pair_column", "pair"] if task.columns[0].pair else []
    return ["--dataset", str(folder), *pair, "--task", task.kind, "--best_by", task.metric]


def table_of(results: Mapping[tuple[str, str, str], Sequence[RunResult]]) -> Table:
    """Return a line for every task and method: the paper's figure, and ours by both protocols, in percent.

    Args:
        results: of all seeds, by (task, method, protocol).
    """
    header = ["task", "score", "method", f"paper ({PAPERS_MODEL})", "ours, paper's protocol", "ours, honest", "seeds"]
    lines = dict.fromkeys((task, method) for task, method, _ in results)
    return Table(header, [_cells(*line, results) for line in lines])


def _cells(name: str, method: str, results: Mapping[tuple[str, str, str], Sequence[RunResult]]) -> list[str]:
    task, ours = TASKS[name], {protocol: results[name, method, protocol] for protocol in PROTOCOLS}
    paper = f"{task.paper[method]:.1f}" if method in task.paper else "-"
    scores = [_percent([run.metrics.scores[task.metric] for run in ours[protocol]]) for protocol in PROTOCOLS]
    return [name, TITLES[task.metric], method, paper, *scores, str(len(ours[HONEST]))]


def _percent(scores: Sequence[float]) -> str:
    """Return mean and sample deviation in percent; the mean alone for one score."""
    spread = f" ± {100 * statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{100 * statistics.mean(scores):.1f}{spread}"


def _open(task: PaperTask, source: str) -> SplitTables:
    """Open the source in the first layout that fits; raise the error of the hub's layout if none does."""
    errors: list[LoraScratchError] = []
    for columns in task.columns:
        try:
            return open_source(source, columns)
        except DataError as error:
            errors.append(error)
    raise errors[0]


def _line(row: Row, kind: str) -> str:
    label = float(str(row.label)) if kind == REGRESSION else row.label
    pair = {} if row.pair is None else {"pair": row.pair}
    return json.dumps({"text": row.text, **pair, "label": label}, ensure_ascii=False) + "\n"
