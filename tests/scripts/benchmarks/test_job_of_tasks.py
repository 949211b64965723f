"""The measure `job` for pairs, several labels and numbers: the same loss, decision and scores for every contender."""

import io
import json
from contextlib import redirect_stdout
from types import SimpleNamespace

import pytest
import torch
from support.command_line import call
from support.folders import save_base
from support.tiny import pair_tokenizer
from transformers import BertConfig, BertForSequenceClassification

from lora_scratch.commands.benchmarks import benchmark, rounds
from lora_scratch.commands.benchmarks.figures import Figure, Figures
from lora_scratch.commands.benchmarks.idle import Idleness
from lora_scratch.commands.benchmarks.peer import HEADLINE, _CountingCollator, _data_set, _headline
from lora_scratch.commands.benchmarks.tables import render_figures
from lora_scratch.commands.benchmarks.whole_job import _measure
from lora_scratch.commands.benchmarks.work import Work, standardized
from lora_scratch.data import Example, Splits, encode
from lora_scratch.errors import ConfigError
from lora_scratch.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, make_task

LABELS = {SINGLE_LABEL: [1, 0, 2], MULTI_LABEL: [(0, 2), (), (1,)], REGRESSION: [1.5, -2.0, 0.25]}
NAMES = {SINGLE_LABEL: "abc", MULTI_LABEL: "abc", REGRESSION: ["score"]}


def task_named(name):
    return make_task(name, tuple(NAMES[name]))


def tiny_bert(task):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    how = {"num_labels": len(task.labels), "problem_type": task.problem_type}
    return BertForSequenceClassification(BertConfig(vocab_size=8, **sizes, **how)).eval()


@pytest.mark.parametrize("name", LABELS)
def test_the_peer_trains_on_pairs_with_the_loss_of_the_task(name):
    """Its rows, collated for transformers' own loss, give the mean of ours; token types reach the model."""
    task, tokenizer = task_named(name), pair_tokenizer()
    pairs = ["b a b", "b", "b b"]
    rows = encode(["a a", "a", "a b a"], task.tensor(LABELS[name]), tokenizer, max_tokens=16, pairs=pairs)
    batch = _CountingCollator(tokenizer)(list(_data_set(rows)))
    model = tiny_bert(task)
    output = model(**batch)
    assert torch.allclose(output.loss, task.loss(output.logits, rows.labels) / len(rows), atol=1e-6)
    assert batch["token_type_ids"].sum() == sum(len(pair.split()) + 1 for pair in pairs)


def test_the_peer_chooses_its_epoch_by_the_headline_with_fitted_thresholds():
    """Probabilities of a quarter decide rightly with a threshold below it, and never with one of a half."""
    task, labels = task_named(MULTI_LABEL), torch.eye(3).repeat(20, 1)
    logits = torch.where(labels == 1, -1.1, -4.0)
    assert task.measure(logits, labels).headline == 0
    assert _headline(task, SimpleNamespace(predictions=logits.numpy(), label_ids=labels.numpy())) == {HEADLINE: 1.0}


def test_thresholds_of_a_job_come_from_the_validation_rows(monkeypatch):
    """Test rows that another threshold would serve better are measured with the one of validation."""
    task, labels = task_named(MULTI_LABEL), torch.eye(3).repeat(20, 1)
    logits = {"validation": torch.where(labels == 1, -1.1, -4.0), "test": torch.where(labels == 1, -4.0, -8.0)}
    monkeypatch.setattr("lora_scratch.commands.benchmarks.whole_job._predict", lambda work, split, model: logits[split])
    sets = {name: SimpleNamespace(labels=labels) for name in logits}
    work = Work(SimpleNamespace(model=tiny_bert(task)), None, sets, None, None, 1)
    assert _measure(work, "validation", None).headline == 1
    assert _measure(work, "test", None).headline == 0


ROWS = {
    "single_label": lambda n: {"text": f"film {n % 3}", "other": f"plot {n % 3}", "label": "no" if n % 2 else "yes"},
    "multi_label": lambda n: {"text": f"film {n % 3}", "label": [["joy"], ["joy", "love"], ["fear"]][n % 3]},
    "regression": lambda n: {"text": f"film {n % 5}", "other": f"plot {n % 3}", "label": n % 5 + 0.5},
}
SHOWN = {
    "single_label": "accuracy | macro-F1 | Matthews | F1 | loss (nats)",
    "multi_label": "macro-F1 | micro-F1 | exact match | mAP | loss (nats)",
    "regression": r"Pearson | Spearman | mean \|error\| | mean error²",
}


@pytest.fixture
def commands(monkeypatch):
    """The commands of all measurements, which run in this process."""
    known = []

    def run(command):
        known.append([str(part) for part in command[2:]])
        out = io.StringIO()
        with redirect_stdout(out):
            assert call(benchmark, *command[2:]) == 0
        return json.loads(out.getvalue().splitlines()[-1])

    monkeypatch.setattr(rounds, "in_a_process", run)
    monkeypatch.setattr(rounds, "look", lambda: Idleness(0.99, 0.1))
    return known


def save_tables(folder, task):
    folder.mkdir()
    for split, count in (("train", 32), ("validation", 16), ("test", 16)):
        lines = [json.dumps(ROWS[task](number)) for number in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("task", ROWS)
def test_a_job_shows_the_scores_of_its_task_for_every_contender(task, tmp_path, commands, capsys):
    """PEFT, full fine-tuning and ours, two seeds: means and deviations, each contender with flags of its own."""
    base = save_base(tmp_path / "base", labels=("a", "b"))
    rows = ["--model", base, "--dataset", save_tables(tmp_path / "rows", task), "--max_tokens", 16]
    rows += [] if task == MULTI_LABEL else ["--pair_column", "other"]
    rows += ["--standardize"] if task == REGRESSION else []
    sizes = ["--epochs", 1, "--rank", 4, "--alpha", 8, "--precision", "fp32", "--rounds", 2, "--seed", 5]
    contenders = ["--measures", "job", "--contenders", "peft", "full", "ours"]
    flags = ["--flags_of_full", "--learning_rate 3e-4", "--flags_of_ours", "--head_start probe"]
    assert call(benchmark, *rows, *sizes, *contenders, *flags) == 0
    out = capsys.readouterr().out
    assert f"| training s | tokens/s | {SHOWN[task]} | against the first |" in out
    assert " ± " in out
    assert len(commands) == 6
    for number, command in enumerate(commands):
        assert command[command.index("--only") - 1] == str(5 + number // 3)  # the seed of the round
        assert ("3e-4" in command) == command[-1].endswith("full")
        assert ("probe" in command) == command[-1].endswith("ours")


def test_standardized_numbers_have_mean_0_and_deviation_1_over_the_training_rows():
    """The other rows are shifted and scaled by the same two numbers."""
    rows = tuple(Example("film", label) for label in (1.0, 2.0, 6.0))
    splits = standardized(Splits(rows, (), rows[2:], labels=("score",), source="made up", task=REGRESSION))
    labels = torch.tensor([row.label for row in splits.train])
    assert torch.allclose(torch.stack([labels.mean(), labels.std()]), torch.tensor([0.0, 1.0]), atol=1e-6)
    assert splits.test == splits.train[2:]


def test_classes_are_not_standardized():
    """Their numbers are names."""
    with pytest.raises(ConfigError, match="--standardize: the task is single_label; expected regression"):
        standardized(Splits((), (), (), labels=("a", "b"), source="made up"))


def test_one_round_of_a_job_has_no_deviation():
    """A single seed has none."""
    figures = [Figure("job", "ours", 0, {"seconds": 1.0, "tokens_per_second": 2.0, "pearson": 0.5}, Idleness(0.99, 0.1))]
    assert render_figures(Figures(figures), machine="AMX").splitlines()[-1] == "| ours | 1.0 | 2 | 0.5000 | 1.00 |"
