"""scripts/study/explain.py: what is printed are the layer's own numbers, in float64."""

import re

import pytest
import torch
from support.command_line import call

from lora_scratch.adapter import adapter_layers, disabled
from lora_scratch.commands.study import explain
from lora_scratch.deploy.classify import Classifier
from lora_scratch.runs import open_adapter
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.study.explain import explain as explain_text

NAME = "distilbert.transformer.layer.1.attention.v_lin"
TEXT = "i am so happy today"


@pytest.fixture(scope="module")
def answer(job):
    """The model's input to the layer, as a hook sees it, and the explanation."""
    saved = open_adapter(job.adapter)
    layer, seen = adapter_layers(saved.base.model)[NAME], []
    layer.register_forward_hook(lambda _, given, gave: seen.append((given[0].detach()[0].double(), gave)))
    ids = saved.base.tokenizer(TEXT, return_tensors="pt")
    logits = saved.base.model(**ids).logits.detach()
    return saved, layer, seen[0][0], logits


def test_printed_numbers_equal_a_dense_float64_computation(job, answer, capsys):
    """Shape, norm, norm of the row moved most and its first four numbers, of every step, to the last printed digit."""
    _, layer, x, _ = answer
    assert call(explain, job.adapter, "--module", "layer.1.attention.v_lin", TEXT) == 0
    lines = capsys.readouterr().out.splitlines()
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    lora_A, lora_B = layer.lora_A.detach().double(), layer.lora_B.detach().double()
    update, base = 2 * x @ (lora_B @ lora_A).T, x @ weight.T + bias
    most = (update.norm(dim=1) / base.norm(dim=1)).argmax()
    expected = {
        "x": x,
        "x Aᵀ": x @ lora_A.T,
        "(x Aᵀ) Bᵀ": x @ (lora_B @ lora_A).T,
        "s · (x Aᵀ) Bᵀ": update,
        "x Wᵀ + b": base,
        "y": base + update,
    }
    for symbol, value in expected.items():
        (line,) = [line for line in lines if re.match(rf"{re.escape(symbol)} +\(\d", line)]
        first = " ".join(f"{number:+.4f}" for number in value[most][:4])
        figures = [f"({len(x)}, {value.shape[1]})", f"{value.norm():.4f}", f"{value[most].norm():.4f}", first]
        assert re.sub(r" +", " ", line).startswith(f"{symbol} {' '.join(figures)}")
    assert "layer    " + NAME in lines
    assert "scaling  s = alpha / r = 8 / 4 = 2" in lines


def test_tokens_are_listed_by_how_far_they_were_moved(job, answer, capsys):
    """Falling, with their numbers, the longest bar of forty marks; the rest is counted."""
    saved, layer, x, _ = answer
    update = x @ layer.delta_weight().detach().double().T
    base = x @ layer.weight.detach().double().T + layer.bias.detach().double()
    moved = update.norm(dim=1) / base.norm(dim=1)
    tokens = saved.base.tokenizer.convert_ids_to_tokens(saved.base.tokenizer(TEXT)["input_ids"])
    assert call(explain, job.adapter, "--module", NAME, "--tokens", 3, TEXT) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("moved most: |update| / |base output|") + 1
    for line, row in zip(lines[start : start + 3], moved.argsort(descending=True)[:3], strict=True):
        position, token, figure, marks = line.split()
        assert (int(position), token) == (row + 1, tokens[row])
        assert float(figure) == pytest.approx(moved[row].item(), abs=6e-5)
        assert marks == "#" * round(40 * (moved[row] / moved.max()).item())
    assert lines[start + 3] == f"and {len(tokens) - 3} less"


def test_explanation_has_the_prediction_with_and_without(job, answer):
    """As trained, as predict.py has it; without the layer, without the adapter; and all is on again afterwards."""
    saved, layer, _, logits = answer
    found = explain_text(saved, TEXT, module=NAME)
    assert list(found.scores["adapter"].values()) == pytest.approx(logits.double().softmax(-1)[0].tolist(), abs=1e-5)
    ids = saved.base.tokenizer(TEXT, return_tensors="pt")
    layer.enabled = False
    without = saved.base.model(**ids).logits.detach()
    layer.enabled = True
    with disabled(saved.base.model):
        plain = saved.base.model(**ids).logits.detach()
    for column, expected in (("without this layer", without), ("without the adapter", plain)):
        assert not torch.equal(expected, logits)
        assert list(found.scores[column].values()) == pytest.approx(expected.double().softmax(-1)[0].tolist(), abs=1e-5)
    assert torch.equal(saved.base.model(**ids).logits, logits)
    assert found.rounding < 1e-5
    (classified,) = Classifier(open_adapter(job.adapter), precision=resolve_precision("fp32", torch.device("cpu")))([TEXT])
    assert classified.answer["scores"] == pytest.approx(found.scores["adapter"], abs=1e-5)


def test_without_a_name_the_layer_moved_most_is_explained(job, answer):
    """The largest norm of ΔW over that of W."""
    saved = answer[0]
    layers = adapter_layers(saved.base.model)
    relative = {name: (layer.delta_weight().norm() / layer.weight.norm()).item() for name, layer in layers.items()}
    assert explain_text(saved, TEXT).name == max(relative, key=relative.get)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("layer.1.attention.vlin", f"called 'layer.1.attention.vlin'; there are, nearest first: {NAME}, "),
        ("v_lin", "2 adapted layers are called 'v_lin'; there are, nearest first: distilbert.transformer.layer."),
        ("classifier", "no adapted layer is called 'classifier'"),
    ],
)
def test_an_unknown_module_is_one_line_that_lists_the_names(job, capsys, given, message):
    """Nearest first; all six where none is called so."""
    assert call(explain, job.adapter, "--module", given, TEXT) == 1
    error = capsys.readouterr().err
    assert "error: --module: " in error
    assert message in error
    assert error.count("attention") >= (2 if given == "v_lin" else 6)


@pytest.mark.parametrize(("arguments", "code"), [(["--tokens", 0, TEXT], 2), ([" "], 1), (["a\0b"], 1), ([], 2)])
def test_what_can_not_be_explained_is_refused(job, capsys, arguments, code):
    """A text of nothing, a NUL, no text, no token to list."""
    assert call(explain, job.adapter, *arguments) == code
    assert "Traceback" not in capsys.readouterr().err
