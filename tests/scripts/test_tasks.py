"""Every command on an adapter of several labels, of a number, and of pairs: what suits the task, or one line why not."""

import json
import re
import shutil

import pytest
import torch
from support.command_line import call
from support.exports import read_again_here as read_again_here
from support.report_pages import Outline
from support.task_jobs import MULTI_LABEL, NUMBER, PAIR
from transformers import pipeline

from lora_scratch.commands import combine, compress, evaluate, export
from lora_scratch.commands.study import ablate, explain
from lora_scratch.deploy.classify import Classifier
from lora_scratch.deploy.serve import classify_rows, open_bank
from lora_scratch.evaluation import Report
from lora_scratch.reporting import page_html
from lora_scratch.runs import open_adapter
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.study.comparison import paired_tests, summarize
from lora_scratch.study.comparison_page import comparison_page
from lora_scratch.study.methods import Run, read_run_result

KINDS = (MULTI_LABEL, NUMBER, PAIR)
FP32 = resolve_precision("fp32", torch.device("cpu"))
TEXTS = ["the house is red", "a very bad tree", "green and blue and good"]
PAIRS = [(text, "good was the tree") for text in TEXTS]
SCORES = {MULTI_LABEL: "macro-F1", NUMBER: "Pearson", PAIR: "accuracy"}


def texts_of(kind):
    return PAIRS if kind == PAIR else TEXTS


def answers(folder, kind):
    """What predict says of the texts."""
    return [row.answer for row in Classifier(open_adapter(folder), precision=FP32)(texts_of(kind))]


@pytest.mark.parametrize(
    ("kind", "section", "test", "why_not"),
    [
        (MULTI_LABEL, "Label by label", "Randomization test of macro-F1", "a text has several labels"),
        (NUMBER, "Predicted against true", "Wilcoxon's signed-rank test of squared errors", "a number has no probability"),
        (PAIR, "Class by class", "McNemar's exact test", None),
    ],
)
def test_evaluate_reports_what_suits_the_task(task_adapters, tmp_path, capsys, kind, section, test, why_not):
    """Headline, paired test, the picture of the answers; and one line where there is no calibration."""
    files = ["--json", tmp_path / "report.json", "--html", tmp_path / "page.html"]
    assert call(evaluate, task_adapters[kind], *files) == 0
    printed, page = " ".join(capsys.readouterr().out.split()), (tmp_path / "page.html").read_text(encoding="utf-8")
    report = Report.read(tmp_path / "report.json")
    assert report.test.title == test
    assert f"{test}, adapted against baseline" in printed
    assert report.verdict.sentence.count(SCORES[kind])
    assert report.constant.answer in printed
    words = "".join(Outline(page).words)
    assert section in words
    assert f"Rows {' and '.join(report.make_task().row_words)}" in words
    assert (report.calibration is None) == (why_not is not None)
    assert why_not is None or printed.count(f"Calibration does not apply: {why_not}") == 1


@pytest.mark.parametrize(("kind", "reason"), [(MULTI_LABEL, "no single confidence"), (NUMBER, "has no probability")])
def test_a_temperature_is_refused_where_it_does_not_apply(task_adapters, capsys, kind, reason):
    """Else thresholds would be fitted again in its name."""
    assert call(evaluate, task_adapters[kind], "--temperature") == 1
    assert re.search(f"--temperature: .*{reason}; leave it out", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (MULTI_LABEL, "Gives texts any number of these labels, each by its own probability: blue above 0."),
        (NUMBER, "Gives texts a number, label. Rank 4"),
        (PAIR, "Classifies pairs of texts as other, same. Rank 4"),
    ],
)
def test_the_card_says_what_the_adapter_predicts(task_adapters, kind, sentence):
    """And loads the base for its task."""
    card = (task_adapters[kind] / "README.md").read_text(encoding="utf-8")
    assert sentence in card
    assert f"problem_type='{open_adapter(task_adapters[kind]).task.problem_type}'" in card


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_a_run_shows_the_headline_of_the_validations(task_adapters, kind):
    """The log has the task's own scores."""
    page = (task_adapters[kind].parent / "report.html").read_text(encoding="utf-8")
    assert f"validation {SCORES[kind]} up to" in "".join(Outline(page).words)


@pytest.mark.usefixtures("read_again_here")
@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_of_the_exported_model_says_what_predict_says(task_adapters, tmp_path, capsys, kind):
    """transformers chooses softmax, sigmoids or the plain number by the problem type that the export has."""
    assert call(export, "merge", task_adapters[kind], "--output", tmp_path / "plain", "--rows", 20) == 0
    printed = capsys.readouterr().out
    assert ("rows get other labels" in printed) == (kind != NUMBER)
    assert ("a label applies above its threshold" in printed) == (kind == MULTI_LABEL)
    run = pipeline("text-classification", model=str(tmp_path / "plain"), top_k=None)
    task = open_adapter(task_adapters[kind]).task
    for text, answer in zip(texts_of(kind), answers(task_adapters[kind], kind), strict=True):
        given = {"text": text[0], "text_pair": text[1]} if kind == PAIR else text
        (rows,) = [run(given)]
        said = {row["label"]: row["score"] for row in (rows[0] if isinstance(rows[0], list) else rows)}
        assert said == pytest.approx(task.scored(answer), abs=1e-4)
    record = json.loads((tmp_path / "plain" / "merge.json").read_text(encoding="utf-8"))
    assert (record["task"], record["decision"]) == (task.name, task.settings())


@pytest.mark.usefixtures("read_again_here")
def test_a_program_for_pairs_reads_token_types(task_adapters, tmp_path, capsys):
    """Without them the second text would be read as the first."""
    folder = task_adapters[PAIR]
    assert call(export, "merge", folder, "--output", tmp_path / "plain", "--format", "program", "--no_rows") == 0
    assert "(input_ids, attention_mask, token_type_ids)" in capsys.readouterr().out
    program, saved = torch.export.load(tmp_path / "plain" / "model.pt2").module(), open_adapter(folder)
    inputs = saved.base.tokenizer(*zip(*PAIRS, strict=True), padding=True, return_tensors="pt")
    logits = program(inputs["input_ids"], inputs["attention_mask"], inputs["token_type_ids"])
    torch.testing.assert_close(logits, saved.base.model(**inputs).logits, rtol=1e-4, atol=1e-4)
    without = program(inputs["input_ids"], inputs["attention_mask"], torch.zeros_like(inputs["token_type_ids"]))
    assert (without - logits).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_an_explanation_has_the_answer_of_predict(task_adapters, capsys, kind):
    """Probabilities by sigmoid, by softmax, or the number."""
    first, second = texts_of(kind)[0] if kind == PAIR else (TEXTS[0], None)
    assert call(explain, task_adapters[kind], first, *([] if second is None else ["--pair", second])) == 0
    printed = capsys.readouterr().out
    answer, task = answers(task_adapters[kind], kind)[0], open_adapter(task_adapters[kind]).task
    for label, score in task.scored(answer).items():
        (line,) = [line for line in printed.splitlines() if line.startswith(f"{label} ") and "without" not in line]
        assert line.split()[1].rstrip("*") == f"{score:.4f}"
        assert ("*" in line.split()[1]) == (label in (task.chosen(answer) or []))
    assert ("the number that is predicted" in printed) == (kind == NUMBER)


@pytest.mark.parametrize(("kind", "words"), [(PAIR, []), (NUMBER, ["--pair", "good"])])
def test_an_explanation_of_the_wrong_number_of_texts_is_refused(task_adapters, capsys, kind, words):
    """A pair read as one text is another input than in the training."""
    assert call(explain, task_adapters[kind], "good", *words) == 1
    assert "the adapter was trained on" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_an_ablation_is_in_the_headline_of_the_task(task_adapters, tmp_path, capsys, kind):
    """Table, sentences and page."""
    files = ["--html", tmp_path / "page.html", "--json", tmp_path / "ablation.json"]
    assert call(ablate, task_adapters[kind], *files, "--strengths", 0, 1, "--limit_eval", 20) == 0
    assert f"take the {SCORES[kind]} from" in capsys.readouterr().out
    words = "".join(Outline((tmp_path / "page.html").read_text(encoding="utf-8")).words)
    assert f"points of {SCORES[kind]} lost" in words
    assert open_adapter(task_adapters[kind]).task.test_title in words
    assert json.loads((tmp_path / "ablation.json").read_text(encoding="utf-8"))["score"] == SCORES[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_compressed_adapter_keeps_task_and_decision(task_adapters, tmp_path, capsys, kind):
    """The search is by the task's own test, the sentence in its headline."""
    assert call(compress, task_adapters[kind], "--output", tmp_path / "small", "--energies", 1, 0.999) == 0
    assert f"the {SCORES[kind]} goes from" in " ".join(capsys.readouterr().out.split())
    whole, small = (open_adapter(folder).provenance for folder in (task_adapters[kind], tmp_path / "small"))
    assert (small.task, small.decision) == (whole.task, whole.decision)


def test_adapters_of_different_tasks_are_not_summed(task_adapters, tmp_path, capsys):
    """A head for several labels and one for a number have no sum."""
    folders = [task_adapters[kind] for kind in (MULTI_LABEL, NUMBER)]
    assert call(combine, "--add", *folders, "--output", tmp_path / "sum") == 1
    assert "its task is regression; expected that of" in capsys.readouterr().err
    assert not (tmp_path / "sum").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sum_has_the_task_of_its_parts(task_adapters, tmp_path, kind):
    """One part at full strength answers as that part."""
    assert call(combine, "--add", task_adapters[kind], "--output", tmp_path / "sum") == 0
    assert answers(tmp_path / "sum", kind) == answers(task_adapters[kind], kind)


def test_a_bank_holds_adapters_of_every_task(task_adapters):
    """In one batch every row is answered as by its adapter alone."""
    served = open_bank(task_adapters)
    rows = [(kind, text) for i in range(3) for kind in KINDS for text in [texts_of(kind)[i]]]
    kinds, texts = zip(*rows, strict=True)
    given = classify_rows(served, texts, kinds, precision=FP32)
    alone = {kind: iter(answers(task_adapters[kind], kind)) for kind in KINDS}
    for kind, row in zip(kinds, given, strict=True):
        task, expected = served.tasks[kind], next(alone[kind])
        assert task.scored(row.answer) == pytest.approx(task.scored(expected), abs=1e-4)
        assert task.chosen(row.answer) == task.chosen(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_comparison_follows_the_task(task_adapters, tmp_path, kind):
    """Its columns, its test and its page."""
    run = Run("lora", 0)
    shutil.copytree(task_adapters[kind].parent, run.place(tmp_path))
    results = [read_run_result(Run(method, 0), tmp_path) for method in ("untrained", "probe", "lora")]
    tests = paired_tests(results, "probe")
    assert summarize(results).header[2] == SCORES[kind]
    words = "".join(Outline(page_html(comparison_page(results, tests))).words)
    assert f"has the highest mean {SCORES[kind]} of 3" in words
    assert results[0].task.test_title in words
    assert ("accuracy" in words) == (kind == PAIR)
