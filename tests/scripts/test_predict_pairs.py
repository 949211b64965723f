"""Pairs of texts through predict, with one adapter and with many; precision as trained; no label without numbers."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import rank_work
from support.command_line import call
from support.damage import reseal
from support.ranks import in_processes
from support.saved_adapters import save_task_adapter
from transformers import AutoTokenizer

from lora_scratch.commands import predict
from lora_scratch.deploy.classify import Classifier
from lora_scratch.errors import DataError
from lora_scratch.evaluation import Predictor
from lora_scratch.runs import open_adapter
from lora_scratch.runtime.precision import Precision

PAIRS = [("it rains", "the rain falls so hard that i am sad"), ("so happy", "so sad"), ("i am calm", "i am calm")]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """An adapter of pairs."""
    return save_task_adapter(tmp_path_factory.mktemp("pairs"), pair_column="other")


@pytest.fixture(scope="module")
def single(pairs, tmp_path_factory):
    """An adapter of single texts of the same base."""
    return save_task_adapter(tmp_path_factory.mktemp("single"), base=pairs.parent / "base")


@pytest.fixture(scope="module")
def number(pairs, tmp_path_factory):
    """An adapter of pairs and a number, of the same base."""
    place = tmp_path_factory.mktemp("number")
    options = {"task": "regression", "labels": ("stars",), "pair_column": "other"}
    return save_task_adapter(place, base=pairs.parent / "base", **options)


def printed(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def scores_of_model(folder, texts):
    """What the adapted model says of pairs, through the tokenizer's own template, one at a time."""
    saved = open_adapter(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder.parent / "base")
    scores = []
    for first, second in texts:
        batch = tokenizer(first, second, return_tensors="pt", truncation=True, max_length=saved.max_tokens)
        with torch.no_grad():
            logits = saved.base.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0]
        scores.append(logits.softmax(-1).tolist())
    return scores


@pytest.mark.parametrize("flags", [[], ["--plain"]], ids=["packed", "padded"])
def test_pairs_of_the_command_line_are_those_of_the_tokenizer_and_the_model(pairs, capsys, flags):
    """--pair once for every text, in their order."""
    arguments = [word for first, second in PAIRS for word in (first, "--pair", second)]
    assert call(predict, pairs, *flags, *arguments) == 0
    found = printed(capsys)
    assert [(row["text"], row["pair"]) for row in found] == PAIRS
    for row, expected in zip(found, scores_of_model(pairs, PAIRS), strict=True):
        assert list(row["scores"].values()) == pytest.approx(expected, abs=1e-5)


def test_pairs_of_a_table_get_the_same_answers_by_the_columns_of_the_training(pairs, tmp_path, capsys):
    """Also with other columns by name, and in two processes."""
    arguments = [word for first, second in PAIRS for word in (first, "--pair", second)]
    assert call(predict, pairs, *arguments) == 0
    alone = printed(capsys)
    for names in (("body", "other"), ("one", "two")):
        path = tmp_path / f"{names[0]}.jsonl"
        path.write_text("".join(json.dumps(dict(zip(names, pair, strict=True))) + "\n" for pair in PAIRS))
        flags = [] if names[0] == "body" else ["--text_column", "one", "--pair_column", "two"]
        assert call(predict, pairs, "--file", path, *flags) == 0
        found = printed(capsys)
        assert [tuple(row[name] for name in names) for row in found] == PAIRS
        assert [row["scores"] for row in found] == [row["scores"] for row in alone]
        told = in_processes(rank_work.script, "predict", pairs, "--file", path, *flags)
        assert [code for code, _, _ in told] == [0, 0]
        assert [json.loads(line)["scores"] for line in told[0][1].splitlines()] == [row["scores"] for row in alone]


@pytest.mark.parametrize(
    ("adapter", "arguments", "code", "message"),
    [
        ("pairs", ["a text"], 1, "found single texts, and the adapter was trained on pairs (columns 'body' and 'other')"),
        ("pairs", ["--file", "FILE"], 1, "FILE: found single texts, and the adapter was trained on pairs"),
        ("single", ["a text", "--pair", "another"], 1, "found pairs, and the adapter was trained on single texts"),
        ("pairs", ["a", "b", "--pair", "c"], 2, "--pair: 1 for 2 texts; pass it once for every text"),
        ("pairs", ["--file", "FILE", "--pair", "c"], 2, "--pair: 1 for 0 texts"),
        ("pairs", ["a", "--pair", " "], 1, "--pair 1: the text is empty"),
        ("pairs", ["--file", "TABLE"], 1, "TABLE:1: no column 'other' among 'body'; name it with --pair_column"),
        ("pairs", ["--file", "TABLE", "--pair_column", "body"], 1, "text and second text are both column 'body'"),
    ],
)
def test_single_texts_and_pairs_do_not_mix(request, tmp_path, capsys, adapter, arguments, code, message):
    """One line, and nothing is predicted."""
    (tmp_path / "texts.txt").write_text("a text\n")
    (tmp_path / "table.csv").write_text("body\na text\n")
    names = {"FILE": str(tmp_path / "texts.txt"), "TABLE": str(tmp_path / "table.csv")}
    arguments = [names.get(word, word) for word in arguments]
    assert call(predict, request.getfixturevalue(adapter), *arguments) == code
    captured = capsys.readouterr()
    for name, path in names.items():
        message = message.replace(name, path)
    assert message in captured.err
    assert captured.out == ""


def test_folder_without_recorded_columns_takes_both(pairs, tmp_path, capsys):
    """As those of PEFT, which record none."""
    folder = shutil.copytree(pairs, tmp_path / "adapter")
    reseal(folder, data={"max_tokens": 24})
    assert call(predict, folder, "a text") == 0
    assert call(predict, folder, "a text", "--pair", "another") == 0
    assert len({json.dumps(row["scores"]) for row in printed(capsys)}) == 2


def test_adapters_of_pairs_texts_and_numbers_are_served_together(pairs, single, number, tmp_path, capsys):
    """Each row gets what predict says with its adapter alone."""
    expected = []
    for folder, words in ((pairs, PAIRS[0]), (single, PAIRS[0][:1]), (number, PAIRS[1]), (pairs, PAIRS[2])):
        assert call(predict, folder, words[0], *[word for second in words[1:] for word in ("--pair", second)]) == 0
        expected += printed(capsys)
    rows = [(PAIRS[0], "pairs"), (PAIRS[0][:1], "single"), (PAIRS[1], "number"), (PAIRS[2], "pairs")]
    lines = [{**dict(zip(("text", "pair"), texts, strict=False)), "adapter": name} for texts, name in rows]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folders = [f"pairs={pairs}", f"single={single}", f"number={number}"]
    assert call(predict, "--adapters", *folders, "--file", path) == 0
    for found, line, alone in zip(printed(capsys), lines, expected, strict=True):
        assert {name: found[name] for name in line} == line
        assert found.pop("adapter") == line["adapter"]
        assert found.keys() == alone.keys()
        assert found["score"] == pytest.approx(alone["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "adapter": "pairs"}, "a row for 'pairs': found single texts, and the adapter was trained on pairs"),
        ({"text": "a", "pair": "b", "adapter": "single"}, "a row for 'single': found pairs, and the adapter was trained"),
        ({"text": "a", "pair": "", "adapter": "pairs"}, "rows.jsonl:1: the second text is empty"),
    ],
)
def test_row_of_the_other_kind_is_refused_in_a_bank(pairs, single, tmp_path, capsys, row, message):
    """One line."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert call(predict, "--adapters", f"pairs={pairs}", f"single={single}", "--file", path) == 1
    assert message in capsys.readouterr().err


def spoil(monkeypatch, *, value):
    """The logits of the second row become no numbers."""
    logits = Predictor.map_rows

    def spoiled(self, *arguments, **options):
        found = logits(self, *arguments, **options)
        found[1:2] = value
        return found

    monkeypatch.setattr(Predictor, "map_rows", spoiled)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_never_become_an_answer(single, number, tmp_path, capsys, monkeypatch, value):
    """The first one ends the command; with --skip_bad_rows its row has the reason and no label or score."""
    spoil(monkeypatch, value=value)
    message = "the model's outputs are NaN or infinite"
    assert call(predict, single, "one", "two", "three") == 1
    assert f"error: text 2: {message}; expected finite numbers; use --precision fp32" in capsys.readouterr().err
    path = tmp_path / "in.csv"
    path.write_text("body,other\none,x\ntwo,x\nthree,x\n")
    for adapter, name in ((single, "label"), (number, "score")):
        assert call(predict, adapter, "--file", path, "--skip_bad_rows") == 0
        first, second, third = printed(capsys)
        assert second == {"body": "two", "other": "x", name: None, "error": f"{path}:3: {message}"}
        assert first[name] is not None
        assert third[name] is not None


def test_outputs_of_a_bank_that_are_not_finite_are_refused(single, tmp_path, capsys, monkeypatch):
    """With the text."""
    spoil(monkeypatch, value=float("nan"))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one", "adapter": "a"}\n{"text": "two", "adapter": "a"}\n')
    assert call(predict, "--adapters", f"a={single}", "--file", path) == 1
    captured = capsys.readouterr()
    assert "error: the text 'two': the model's outputs are NaN or infinite" in captured.err
    assert captured.out == ""


def test_adapter_with_weights_too_large_gives_no_label(single, tmp_path, capsys):
    """No patch: an update that overflows in the forward pass."""
    folder = shutil.copytree(single, tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: t * 1e30 for name, t in tensors.items()}, folder / "adapter_model.safetensors", metadata={"format": "pt"}
    )
    reseal(folder)
    assert call(predict, folder, "a text") == 1
    captured = capsys.readouterr()
    assert "NaN" in captured.err or "not finite" in captured.err
    assert captured.out == ""


def used_precision(monkeypatch):
    """The precisions that predictors were made with."""
    seen, post_init = [], Predictor.logits

    def logits(self, *arguments, **options):
        seen.append(self.precision.name)
        return post_init(self, *arguments, **options)

    monkeypatch.setattr(Predictor, "logits", logits)
    return seen


@pytest.mark.parametrize(
    ("trained", "flags", "used"), [("bf16", [], "bf16"), ("fp32", [], "fp32"), ("bf16", ["fp32"], "fp32")]
)
def test_precision_is_that_of_the_training_unless_told_otherwise(pairs, tmp_path, monkeypatch, trained, flags, used):
    """As evaluate does it, so that one adapter gives one answer."""
    folder = save_task_adapter(tmp_path, base=pairs.parent / "base", precision=trained)
    seen = used_precision(monkeypatch)
    assert call(predict, folder, "a text", *(["--precision", *flags] if flags else [])) == 0
    assert seen == [used]


def test_bank_has_the_precision_of_its_adapters_and_asks_where_they_differ(single, pairs, tmp_path, capsys):
    """Two precisions can't both be kept."""
    half = save_task_adapter(tmp_path / "half", base=pairs.parent / "base", precision="bf16")
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a text", "adapter": "a"}\n')
    arguments = ["--file", path, "--adapters", f"a={single}", f"b={half}"]
    assert call(predict, *arguments) == 1
    assert "error: the adapters were trained in bf16 and in fp32; choose one with --precision" in capsys.readouterr().err
    assert call(predict, *arguments, "--precision", "fp32") == 0


def test_library_refuses_a_mixture_too(pairs):
    """A `Classifier` checks every window."""
    classify = Classifier(open_adapter(pairs), precision=Precision(torch.float32, torch.device("cpu")))
    with pytest.raises(DataError, match="found single texts"):
        list(classify([PAIRS[0], "a text"]))
