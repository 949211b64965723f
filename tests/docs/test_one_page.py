"""docs/one_page.py: it learns the demo, its file restores it bit for bit, and it stays one page."""

import ast
import contextlib
import io
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.families import tiny
from support.folders import save_base

from lora_scratch.demo import foundation_folder
from lora_scratch.layers.lora import LoRALinear

PAGE = Path(__file__).parent.parent.parent / "docs" / "one_page.py"
SOURCE = PAGE.read_text(encoding="utf-8")
LABELS = ["anger", "joy"]
ROWS = [("i am angry today.", "anger"), ("i am happy today.", "joy")] * 8


def run(folder, *words):
    """Run the page as a command in `folder`; return its variables and what it printed."""
    printed, shown = io.StringIO(), transformers.logging.get_verbosity()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        patch.setattr(sys, "argv", [str(PAGE), *map(str, words)])
        page = runpy.run_path(str(PAGE), run_name="__main__")
    transformers.logging.set_verbosity(shown)
    return SimpleNamespace(**page), printed.getvalue()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The page, run once on the demo: its variables, what it printed, its folder."""
    folder = tmp_path_factory.mktemp("one_page")
    return (*run(folder), folder)


@pytest.fixture
def page():
    """The functions of the page; nothing is run."""
    return SimpleNamespace(**runpy.run_path(str(PAGE)))


@pytest.fixture
def base(tmp_path):
    """The folder of a tiny base model with a head for three labels."""
    return save_base(tmp_path / "base", labels=("a", "b", "c"))


def test_page_learns_the_demo(demo):
    """Adapted accuracy is above all that can be had without learning the question.

    The frozen base knows good from bad: knowing that alone, a guess is right for one text in three. Counting words gives
    less than 0.65 (tests/demo/test_corpus.py). An accuracy over n rows has a standard error of at most 0.5 / sqrt(n);
    five of them are allowed on each side. Measured: 0.19 and 0.96.
    """
    page, printed, _ = demo
    baseline, adapted = map(float, re.findall(r"accuracy +(\S+)", printed))
    noise = 5 * 0.5 / len(page.test_rows) ** 0.5
    assert baseline < 1 / 3 + noise
    assert adapted > 0.65 + noise
    assert printed.endswith("'my sister is sad, but i am happy' -> joy\n")


def test_demo_tests_on_rows_that_it_did_not_train_on(demo):
    """No text is in both lists, and both have all six labels."""
    page, _, _ = demo
    assert not {text for text, _ in page.train_rows} & {text for text, _ in page.test_rows}
    assert len({label for _, label in page.train_rows}) == len({label for _, label in page.test_rows}) == 6


def test_saved_adapter_in_a_fresh_base_gives_the_same_bits(demo):
    """A base with the file loaded answers as the trained model; without the file, it answers otherwise."""
    page, _, folder = demo
    texts = [text for text, _ in page.test_rows[:20]]
    untrained = page.Classifier(page.name, page.model.labels)
    with torch.no_grad():
        expected = page.model.eval()(texts)
        assert torch.equal(page.fresh.eval()(texts), expected)
        assert not torch.equal(untrained.eval()(texts), expected)
    saved = load_file(folder / page.ADAPTER_FILE)
    assert saved.keys() == page.trained_tensors(page.model).keys()
    assert all("lora_" in name or "classifier" in name for name in saved)


def test_training_leaves_every_frozen_tensor_as_it_was(demo):
    """The frozen tensors of the trained model have the bits of those of a base just loaded."""
    page, _, _ = demo
    trained = page.trained_tensors(page.model)
    loaded = page.Classifier(page.name, page.model.labels).state_dict()
    frozen = {n.replace(".base.", "."): t for n, t in page.model.state_dict().items() if n not in trained}
    assert len(frozen) > 20
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in frozen.items())


def test_page_takes_a_model_two_files_and_texts(base, tmp_path):
    """Every text after the files gets a line; the run is the same each time."""
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text("".join(f"{text};{label}\n" for text, label in ROWS))
    words = (base, tmp_path / "train.txt", tmp_path / "test.txt", "i am happy.", "i am angry; really.")
    _, printed = run(tmp_path, *words)
    lines = printed.splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("'i am happy.' -> ")
    assert lines[3].startswith("'i am angry; really.' -> ")
    assert run(tmp_path, *words)[1] == printed


def test_file_of_another_model_is_refused(base, page, tmp_path):
    """A file that holds a tensor too many or too few does not load."""
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text("i am happy;joy\ni am angry;anger\n")
    load = page.load_file
    for change in (lambda tensors: dict(list(tensors.items())[1:]), lambda tensors: tensors | {"x": torch.zeros(1)}):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("safetensors.torch.load_file", lambda path, change=change: change(load(path)))
            with pytest.raises(RuntimeError, match=r"(Missing|Unexpected) key"):
                run(tmp_path, base, tmp_path / "train.txt", tmp_path / "test.txt")


def test_injection_changes_no_bit_of_the_output(base, page):
    """B = 0: the model with LoRA layers still is the baseline."""
    model = page.Classifier(str(base), LABELS).eval()
    texts = [text for text, _ in ROWS]
    before = model(texts)
    page.inject(model)
    assert torch.equal(model.eval()(texts), before)


@pytest.mark.parametrize("family", ["distilbert", "bert", "roberta", "electra"])
def test_targets_are_query_key_and_value_of_every_block(page, family):
    """Three LoRA layers a block, in models of two blocks."""
    model = tiny(family)
    page.inject(model)
    assert sum(isinstance(layer, LoRALinear) for layer in model.modules()) == 3 * 2


def test_model_without_a_target_is_refused(page):
    """Otherwise the head alone would learn, and nobody would notice."""
    with pytest.raises(ValueError, match=r"no linear layer is called q_lin .* or value; edit TARGETS"):
        page.inject(torch.nn.Sequential(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize(("dtype", "scaled"), [("float32", False), ("bfloat16", False), ("float16", True)])
def test_every_precision_learns_and_float16_alone_scales_the_loss(page, monkeypatch, dtype, scaled):
    """Matrix products run in the dtype, logits and trained tensors stay float32, and both texts are learned.

    Measured with four seeds: after 15 steps the loss is below 1e-4 in every precision.
    """
    for name, value in {"DTYPE": getattr(torch, dtype), "EPOCHS": 15, "LEARNING_RATE": 1e-2}.items():
        monkeypatch.setitem(page.train.__globals__, name, value)
    scalers, dtypes = [], set()

    class Scaler(torch.amp.GradScaler):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            scalers.append(self)

    monkeypatch.setattr(torch.amp, "GradScaler", Scaler)
    model = page.Classifier(str(foundation_folder(progress=False)), LABELS)
    page.inject(model)
    layer = next(layer for layer in model.modules() if isinstance(layer, LoRALinear))
    layer.register_forward_hook(lambda _, inputs, output: dtypes.add(output.dtype))
    page.train(model, ROWS)
    assert model.accuracy(ROWS) == 1
    assert [scaler.is_enabled() for scaler in scalers] == [scaled]
    assert dtypes == {getattr(torch, dtype)}
    assert {tensor.dtype for tensor in page.trained_tensors(model).values()} == {torch.float32}
    assert model(["i am happy."]).dtype == torch.float32


def test_rows_are_read_up_to_the_last_semicolon(page, tmp_path):
    """A text keeps the semicolons in it; a line without text or label is named by its number."""
    path = tmp_path / "rows.txt"
    path.write_text("i am happy; really;joy\ni am sad;sadness \n")
    assert page.read_rows(str(path)) == [("i am happy; really", "joy"), ("i am sad", "sadness")]
    path.write_text("i am happy;joy\n\nno label;\n;joy\nneither\n")
    with pytest.raises(ValueError, match=r"rows\.txt: lines \[2, 3, 4, 5\] are not text;label; correct or remove them"):
        page.read_rows(str(path))


def test_page_stays_one_page():
    """At most 120 lines, none over 100 characters, no function over 20 lines."""
    lines = SOURCE.splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 100
    functions = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.FunctionDef)]
    assert max(node.end_lineno - node.lineno + 1 for node in functions) <= 20


def test_page_imports_one_file_of_the_project():
    """At the top, the LoRA layer alone; the demo is imported only where it is the default."""
    modules = [node for node in ast.parse(SOURCE).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in modules]
    assert [name for name in names if name.startswith("lora_scratch")] == ["lora_scratch.layers.lora"]
    everywhere = {node.module for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.ImportFrom)}
    assert {name for name in everywhere if name.startswith("lora_scratch")} == {
        "lora_scratch.layers.lora",
        "lora_scratch.demo",
    }
