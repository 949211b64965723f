"""lora_scratch/serialization/load.py: what does not fit is refused, all of it at once, and the model stays."""

import random
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.adapter_files import CONFIG, PROVENANCE, Q0, WEIGHTS, adapted, change_tensors, foreign, refused
from support.families import logits, record, tiny
from support.tiny import tiny_distilbert
from torch import nn

from lora_scratch.adapter import LoRAConfig, disabled, inject, is_adapted, remove_adapter
from lora_scratch.errors import AdapterFileError, BaseMismatchError
from lora_scratch.serialization import load_adapter, save_adapter

TENSOR_FAULTS = {
    "missing": (lambda t: t.pop(f"{Q0}.lora_B.weight"), [rf"{Q0}\.lora_B\.weight is missing"]),
    "head missing": (lambda t: t.pop("base_model.model.pre_classifier.weight"), [r"pre_classifier\.weight is missing"]),
    "unexpected": (
        lambda t: t.update({Q0.replace(".0.", ".2.") + ".lora_A.weight": torch.zeros(4, 32)}),
        [r"layer\.2\..*lora_A\.weight is unexpected"],
    ),
    "renamed": (
        lambda t: t.update({f"{Q0}.lora_a.weight": t.pop(f"{Q0}.lora_A.weight")}),
        [r"lora_A\.weight is missing", r"lora_a\.weight is unexpected"],
    ),
    "transposed": (
        lambda t: t.update({f"{Q0}.lora_A.weight": t[f"{Q0}.lora_A.weight"].T}),
        [r"lora_A\.weight has shape \(32, 4\), expected \(4, 32\)"],
    ),
    "empty": (
        lambda t: t.update({f"{Q0}.lora_A.weight": torch.zeros(0)}),
        [r"lora_A\.weight has shape \(0,\), expected \(4, 32\)"],
    ),
    "NaN": (lambda t: t[f"{Q0}.lora_A.weight"].view(-1)[17].fill_(float("nan")), [r"lora_A\.weight holds NaN or inf"]),
    "inf": (lambda t: t["base_model.model.classifier.bias"][1].fill_(-float("inf")), [r"classifier\.bias holds NaN or inf"]),
    "integers": (
        lambda t: t.update({f"{Q0}.lora_B.weight": t[f"{Q0}.lora_B.weight"].to(torch.int32)}),
        [r"lora_B\.weight is torch\.int32, expected a floating dtype"],
    ),
    "float8": (
        lambda t: t.update({f"{Q0}.lora_B.weight": t[f"{Q0}.lora_B.weight"].to(torch.float8_e4m3fn)}),
        [r"lora_B\.weight is torch\.float8_e4m3fn"],
    ),
    "bools": (
        lambda t: t.update({f"{Q0}.lora_B.weight": t[f"{Q0}.lora_B.weight"] > 0}),
        [r"lora_B\.weight is torch\.bool, expected a floating dtype"],
    ),
    "all at once": (
        lambda t: t.update({"x": t.pop(f"{Q0}.lora_A.weight"), f"{Q0}.lora_B.weight": torch.zeros(3, 3)}),
        [r"lora_A\.weight is missing", "x is unexpected", r"shape \(3, 3\), expected \(32, 4\)"],
    ),
}


class TestTensors:
    """A file in order, with a fault in what it holds."""

    @pytest.mark.parametrize("origin", ["ours", "another tool's"])
    @pytest.mark.parametrize("fault", TENSOR_FAULTS)
    def test_faulty_tensor_is_refused_by_name(self, folder, fault, origin):
        """PAINS 4, 5, 6, 13, 26, 42: one typed error with everything that is wrong, and the model as it was."""
        change, problems = TENSOR_FAULTS[fault]
        if origin != "ours":
            foreign(folder)
            if fault == "head missing":
                problems = [".*"]
        change_tensors(folder, change)
        error = refused(folder, match=str(folder))
        for problem in problems:
            assert any(re.search(problem, text) for text in error.problems), error

    def test_three_layer_adapter_is_refused_on_a_two_layer_base(self, tmp_path):
        """PAINS 6: what has no place is not dropped."""
        model = inject(tiny_distilbert(layers=3), LoRAConfig(rank=4))
        place = foreign(save_adapter(model, tmp_path / "a"))
        error = refused(place, match="is unexpected")
        assert len(error.problems) == 6

    def test_head_that_is_random_and_not_in_the_file_is_refused(self, tmp_path):
        """PAINS 1: a fresh head that the adapter does not bring would answer at random."""
        place = save_adapter(adapted(head_modules=[]), tmp_path / "a")
        refused(
            place, must_cover=["classifier.weight"], match=r"classifier\.weight is random in the model and not in the file"
        )
        load_adapter(tiny_distilbert(), place)

    def test_head_for_other_labels_is_refused(self, good):
        """Six classes are not three."""
        refused(good, model=tiny_distilbert(labels=6), match=r"classifier\.weight has shape \(3, 32\), expected \(6, 32\)")

    def test_adapter_of_another_family_is_refused(self, good):
        """DistilBERT's names on BERT."""
        refused(good, model=tiny("bert"), match="does not fit this model: --targets: no module is called 'k_lin'")

    def test_float16_tensors_are_widened(self, folder):
        """PAINS 16: a smaller file is fine; the trained tensors are float32 again."""
        foreign(folder)
        change_tensors(folder, lambda t: t.update({name: tensor.half() for name, tensor in t.items()}))
        model = tiny_distilbert()
        load_adapter(model, folder)
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


class TestBase:
    """Whose weights."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda m: m.distilbert.transformer.layer[1].attention.v_lin.weight[3, 4].add_(1e-6),
            lambda m: m.distilbert.transformer.layer[0].ffn.lin1.bias[0].add_(1),
            lambda m: m.distilbert.embeddings.word_embeddings.weight[5, 5].neg_(),
        ],
        ids=["adapted weight", "frozen bias", "embedding"],
    )
    def test_one_other_number_in_the_base_is_refused(self, folder, change):
        """PAINS 7: an adapter is an update of particular numbers; the flag to override is explicit."""
        model = tiny_distilbert()
        with torch.no_grad():
            change(model)
        refused(
            folder, error=BaseMismatchError, model=model, match=r"not the one .*trained on \(1 differ, first .*tiny/base"
        )
        load_adapter(model, folder, verify_base=False)
        assert is_adapted(model)

    def test_base_of_another_seed_is_refused(self, folder):
        """Same shapes, other weights."""
        refused(folder, error=BaseMismatchError, model=tiny_distilbert(seed=1), match="7 differ")

    def test_other_head_of_the_base_is_no_other_base(self, folder):
        """The head is the adapter's own: a fresh one of another seed is overwritten."""
        model = tiny_distilbert()
        nn.init.normal_(model.classifier.weight)
        load_adapter(model, folder)
        assert torch.equal(model.classifier.weight, load_file(folder / WEIGHTS)["base_model.model.classifier.weight"])

    def test_folder_of_another_tool_has_no_base_to_compare(self, folder):
        """What is not recorded can't be checked: it loads."""
        load_adapter(tiny_distilbert(seed=1), foreign(folder))


def mutate(folder, rng):
    """One random damage to one of the files; whether it can be told without the hashes of provenance.json."""
    name = rng.choice([WEIGHTS, WEIGHTS, CONFIG, PROVENANCE])
    content = bytearray((folder / name).read_bytes())
    kind = rng.choice(["flip", "cut", "insert", "swap", "zero"])
    at = rng.randrange(len(content) - 8)
    if kind == "flip":
        content[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[at:]
    elif kind == "insert":
        content[at:at] = bytes([rng.randrange(32, 127)])
    elif kind == "swap":
        content[at], content[at + 5] = content[at + 5], content[at]
    else:
        content[at : at + 4] = b"0000"
    (folder / name).write_bytes(content)


@pytest.mark.parametrize("seed", range(80))
def test_randomly_damaged_folder_is_refused_or_loads_as_if_whole(good, tmp_path, seed):
    """Whatever byte of whatever file is hit: a typed error and the model as it was, or the very adapter that was saved."""
    folder = shutil.copytree(good, tmp_path / "adapter")
    mutate(folder, random.Random(seed))  # noqa: S311
    model, whole = tiny_distilbert(), tiny_distilbert()
    before = record(model)
    try:
        load_adapter(model, folder)
    except AdapterFileError:
        assert record(model) == before
        return
    load_adapter(whole, good)
    assert record(model) == record(whole)
    assert torch.equal(logits(model), logits(whole))


class TestFrozenModulesInTheFile:
    """PEFT takes `pre_classifier` for a head where `classifier` is one, so the file holds it, trained or not."""

    @pytest.fixture
    def folder(self, tmp_path):
        """`classifier` is trained and `pre_classifier` is not."""
        return save_adapter(adapted(head_modules=["classifier"]), tmp_path / "classifier alone")

    def test_another_base_keeps_its_own_frozen_weights(self, folder):
        """Loading writes to what the adapter trained and to nothing else; the way back is bit for bit."""
        other = tiny_distilbert(seed=1)
        before, expected = record(other), logits(other)
        load_adapter(other, folder, verify_base=False)
        assert torch.equal(other.pre_classifier.weight, tiny_distilbert(seed=1).pre_classifier.weight)
        assert torch.equal(other.classifier.weight, adapted(head_modules=["classifier"]).classifier.weight)
        with disabled(other):
            assert torch.equal(logits(other), expected)
        assert record(remove_adapter(other)) == before

    def test_random_frozen_weights_are_refused_unless_they_are_those_of_the_file(self, folder):
        """A fresh tensor that nothing fills would be noise for good; drawn with the same seed it is the file's own."""
        fresh = ["pre_classifier.weight", "classifier.weight"]
        with pytest.raises(AdapterFileError, match=r": pre_classifier\.weight is random in the model, and the file holds"):
            load_adapter(tiny_distilbert(seed=1), folder, verify_base=False, must_cover=fresh)
        load_adapter(tiny_distilbert(), folder, must_cover=fresh)
