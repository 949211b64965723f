"""A page to look at: a small run with text in it that would like to be markup."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import torch
import torch.nn.functional as F

from lora_scratch.adapter.factors import AdapterSummary
from lora_scratch.adapter.state import ParameterCount
from lora_scratch.evaluation import Report, TrainingCost
from lora_scratch.evaluation.classes import ClassScores, Confusions
from lora_scratch.study.methods import Run, RunResult
from lora_scratch.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, SingleLabelMetrics, make_task
from lora_scratch.tasks.metrics import LabelRow

EVIL = "<script>alert(1)</script> & $x_1$ </td>"
LABELS = ["joy", EVIL, "怒り"]
TASK = make_task(SINGLE_LABEL, LABELS)
COUNTS = ParameterCount(total=1000, trainable=80, lora=50, head=30)
VOID = {"meta", "wbr", "link", "br", "img", "hr", "input", "col"}


def report(**fields):
    """Return the report of forty rows and three classes, with an adapter that is often right; text full of markup."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (40,), generator=generator)
    noise = torch.randn(2, 40, 3, generator=generator)
    compared = Report.compare(
        noise[0],
        noise[1] + 4 * F.one_hot(labels, 3),
        labels,
        task=TASK.fitted(noise[1], labels),
        parameters=COUNTS,
        train=TrainingCost(100.0, 100.0, 100, 100, 1.0, 100),
        command=f"python train.py --dataset '{EVIL}'",
        texts=[f"row {i} {EVIL}" for i in range(40)],
        lengths=torch.arange(40),
    )
    return replace(compared, **fields)


def compared(kind, labels, before, after, truth):
    """Return the report of a task."""
    return Report.compare(before, after, truth, task=make_task(kind, labels), parameters=COUNTS, command="")


def several_labels():
    """Return the report of 30 rows that have any of four labels; no row has the last one."""
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(30, 4, generator=generator) < 0.4).float()
    truth[:, 3] = 0
    noise = torch.randn(2, 30, 4, generator=generator)
    return compared(MULTI_LABEL, ["a", "b", "c, d", "e"], noise[0], noise[1] + 4 * (2 * truth - 1), truth)


def a_number():
    """Return the report of 30 scores."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(30, generator=generator) * 5
    noise = torch.randn(2, 30, generator=generator)
    return compared(REGRESSION, ["stars"], noise[0][:, None], (truth + noise[1] / 5)[:, None], truth)


def many_labels(count, *, confusion=True):
    """Return a report with many labels, half of each label's ten rows right before and all but one after."""
    names = [f"label {i}" for i in range(count)]
    rows = [[LabelRow(name, p, p, p, 10) for name in names] for p in (0.5, 0.9)]
    counts = [[[0] * count for _ in names] for _ in range(2)]
    for i in range(count):
        for matrix, right in zip(counts, (5, 9), strict=True):
            matrix[i][i], matrix[i][(i + 1) % count] = right, 10 - right
    scores = ClassScores(*rows, [4] * count, [0] * count, [1.0] * count)
    own = {"labels": names, "per_class": scores, "confusion": Confusions(*counts) if confusion else None}
    return replace(report(), **own, **({} if confusion else {"task": MULTI_LABEL}))


def module(name, relative_norm=0.1):
    """Return the figures of an adapted module."""
    return AdapterSummary(
        name=name,
        rank=2,
        update_norm=1.0,
        base_norm=10.0,
        relative_norm=relative_norm,
        singular_values=[0.9, 0.4],
        stable_rank=1.5,
        effective_rank=2.0,
        energy=[0.8, 1.0],
    )


def run_result(method, seed, accuracy, *, rows=None):
    """Return the result of a run of a comparison, on fifty test rows."""
    metrics = SingleLabelMetrics(accuracy=accuracy, macro_f1=accuracy, loss=1.0, n=50)
    return RunResult(Run(method, seed, rows), TASK, metrics, torch.empty(0), torch.empty(0))


def events(steps=30):
    """What a run logs: a step that diverged among them."""
    names = ("encoder.layer.0.q", "encoder.layer.0.out.dense", "encoder.layer.1.q")
    figures = {"gradient_A": 0.0, "gradient_B": 0.1, "update_A": 1e-3, "update_B": 0.5, "delta_weight": 0.3}
    found = []
    for step in range(1, steps + 1):
        loss = "nan" if step == 7 else 1 / step
        line = {
            "event": "step",
            "step": step,
            "loss": loss,
            "learning_rate": 1e-3,
            "gradient_norm": "inf" if step == 7 else 1.0,
        }
        found.append({**line, **({"modules": dict.fromkeys(names, figures)} if step % 10 == 0 else {})})
    return [*found, {"event": "validation", "step": steps, "loss": 0.2, "accuracy": 0.9, "macro_f1": 0.8, "n": 40}]


class Outline(HTMLParser):
    """The elements of a document, in order, and whether each was closed where it should be."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        """Opened."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Opened and closed."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        """It has to be the last that was opened."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Text."""
        self.words.append(data)

    def all(self, tag):
        """The attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]
