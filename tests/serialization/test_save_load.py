"""lora_scratch/serialization/{save,load,adapter_folder}.py: what is saved comes back bit for bit; damage is refused."""

import errno
import hashlib
import json
import os
import random
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.damage import reseal
from support.families import logits, record, tiny
from support.tiny import tiny_distilbert
from torch import nn

from lora_scratch.adapter import LoRAConfig, adapter_layers, disabled, inject, is_adapted, merge_all, remove_adapter
from lora_scratch.errors import AdapterFileError, BaseMismatchError, LoraScratchError
from lora_scratch.serialization import load_adapter, read_provenance, save_adapter
from lora_scratch.serialization.adapter_folder import _read_json as read_json
from lora_scratch.serialization.provenance import sealed
from lora_scratch.testing import move_adapter

WEIGHTS, CONFIG, PROVENANCE = "adapter_model.safetensors", "adapter_config.json", "provenance.json"
Q0 = "base_model.model.distilbert.transformer.layer.0.attention.q_lin"


def adapted(family="distilbert", *, seed=0, **options):
    """A model whose adapter and head are away from their start."""
    model = inject(tiny(family), LoRAConfig(**{"rank": 4, "alpha": 6, "dropout": 0.0} | options), seed=seed)
    move_adapter(model, seed=seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and "lora_" not in name:
                p.add_(0.1)
    return model


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """One saved folder, to be copied and damaged."""
    return save_adapter(adapted(), tmp_path_factory.mktemp("good") / "adapter", base_model="tiny/base")


@pytest.fixture
def folder(good, tmp_path):
    """A copy of it."""
    return shutil.copytree(good, tmp_path / "adapter")


def foreign(folder):
    """Take our own side file away, as if another tool had written the folder: nothing tells the bytes then."""
    (folder / PROVENANCE).unlink()
    return folder


def change_tensors(folder, change):
    """Rewrite the tensors, and the hash with them, so that the file is in order and only its content is not."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    if (folder / PROVENANCE).exists():
        reseal(folder)


def change_json(path, change):
    """Rewrite a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content))


def refused(folder, *, error=AdapterFileError, model=None, match=None, **options):
    """Loading raises this error and leaves every bit of the model; the error, for more questions."""
    model = model or tiny_distilbert()
    before = record(model)
    with pytest.raises(error, match=match) as caught:
        load_adapter(model, folder, **options)
    assert record(model) == before
    assert "\n" not in str(caught.value)
    return caught.value


class TestRoundTrip:
    """Bits out, bits in."""

    @pytest.mark.parametrize("family", ["distilbert", "bert", "roberta", "electra"])
    @pytest.mark.parametrize("options", [{}, {"rslora": True, "targets": ["query", "key"]}, {"head_modules": []}], ids=str)
    def test_loaded_model_is_the_saved_one_bit_for_bit(self, tmp_path, family, options):
        """PAINS 1, 26, 28: every trained tensor, in the file and back, logits and all; the config too."""
        if family == "distilbert" and "targets" in options:
            options = options | {"targets": ["q_lin", "k_lin"]}
        model, other = adapted(family, **options), tiny(family)
        config = load_adapter(other, save_adapter(model, tmp_path / "a"))
        assert record(other) == record(model)
        assert torch.equal(logits(other), logits(model))
        assert (config.rank, config.alpha, config.rslora) == (4, 6, options.get("rslora", False))

    @pytest.mark.parametrize("model", [adapted(), adapted("bert")], ids=["distilbert", "bert"])
    def test_saving_what_was_loaded_gives_the_same_bytes(self, tmp_path, model):
        """No drift from one generation to the next, in any of the files."""
        first = save_adapter(model, tmp_path / "a", base_model="x")
        other = tiny(model.config.model_type)
        load_adapter(other, first)
        second = save_adapter(other, tmp_path / "b", base_model="x")
        for name in (WEIGHTS, CONFIG, "README.md"):
            assert (second / name).read_bytes() == (first / name).read_bytes(), name

    def test_merged_model_saves_the_unmerged_adapter(self, tmp_path):
        """PAINS 12: the bytes are the same whether merged or not."""
        model = adapted()
        first = save_adapter(model, tmp_path / "a")
        merge_all(model)
        assert (save_adapter(model, tmp_path / "b") / WEIGHTS).read_bytes() == (first / WEIGHTS).read_bytes()

    def test_half_precision_base_loads_what_a_float32_base_trained(self, good):
        """The adapter stays float32 and the base is recognized in its narrower dtype."""
        for dtype in (torch.bfloat16, torch.float16):
            model = tiny_distilbert().to(dtype)
            load_adapter(model, good)
            assert all(layer.lora_A.dtype == torch.float32 for layer in adapter_layers(model).values())
            saved = load_file(good / WEIGHTS)
            assert torch.equal(
                adapter_layers(model)[Q0.removeprefix("base_model.model.")].lora_A, saved[f"{Q0}.lora_A.weight"]
            )

    def test_loaded_model_can_be_switched_off_and_removed(self, good):
        """The way back is that of an injected one."""
        model = tiny_distilbert()
        before, expected = record(model), logits(model)
        load_adapter(model, good)
        with disabled(model):
            assert torch.equal(logits(model), expected)
        remove_adapter(model)
        assert record(model) == before

    def test_module_names_with_lora_in_them_survive(self, tmp_path):
        """PAINS 30: an adapter layer called lora_A and a head called my.lora_B."""

        def make():
            torch.manual_seed(0)
            inner = nn.ModuleDict({"lora_A": nn.Linear(6, 4), "lora_B": nn.Linear(4, 4)})
            return nn.ModuleDict({"my": inner})

        model = inject(make(), LoRAConfig(rank=2, targets=["lora_A"], head_modules=["my.lora_B"]))
        move_adapter(model)
        other = make()
        load_adapter(other, save_adapter(model, tmp_path / "a"))
        assert record(other) == record(model)

    def test_global_random_state_is_left_alone(self, good):
        """Loading draws nothing."""
        model, state = tiny_distilbert(), torch.get_rng_state()
        load_adapter(model, good)
        assert torch.equal(torch.get_rng_state(), state)


class TestFolder:
    """What is in it."""

    def test_folder_holds_the_four_files(self, good):
        """PEFT's two, our history, and the card."""
        assert sorted(path.name for path in good.iterdir()) == ["README.md", CONFIG, WEIGHTS, PROVENANCE]

    def test_config_is_written_as_peft_writes_it(self, good):
        """Sorted keys, two spaces, no newline at the end: a diff of two adapters shows what differs and nothing else."""
        text = (good / CONFIG).read_text(encoding="utf-8")
        assert text == json.dumps(json.loads(text), indent=2, sort_keys=True)

    def test_provenance_records_what_peft_has_no_field_for(self, tmp_path):
        """PAINS 7 and 32: the file's hash, the base's, the seed, and rank, alpha, scaling of each module; and the notes."""
        model = adapted(seed=5)
        place = save_adapter(model, tmp_path / "a", base_model="x/y", notes={"labels": ["joy"]}, card="# mine\n")
        history = read_provenance(place)
        assert history.adapter_sha256 == hashlib.sha256((place / WEIGHTS).read_bytes()).hexdigest()
        assert history.base.name == "x/y"
        assert history.seed == 5
        assert history.labels == ("joy",)
        assert history.modules == {name: {"rank": 4, "alpha": 6, "scaling": 1.5} for name in adapter_layers(model)}
        assert (place / "README.md").read_text(encoding="utf-8") == "# mine\n"

    def test_saving_twice_gives_the_same_bytes(self, tmp_path):
        """Deterministic in every file, so hashes of folders mean something."""
        model = adapted()
        first, second = (save_adapter(model, tmp_path / name, base_model="x", notes={"b": 1, "a": 2}) for name in "ab")
        for path in first.iterdir():
            assert (second / path.name).read_bytes() == path.read_bytes(), path.name

    def test_trained_tensor_outside_the_file_is_refused(self, tmp_path):
        """PAINS 1: nothing trained may be lost on the way; nothing is written then."""
        model = adapted(head_modules=["classifier"])
        model.pre_classifier.requires_grad_(True)
        model.distilbert.embeddings.LayerNorm.requires_grad_(True)
        with pytest.raises(
            LoraScratchError, match=r"trained but not part of the adapter: .*LayerNorm\.weight.*head_modules"
        ):
            save_adapter(model, tmp_path / "a")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("call", ["replace", "fsync"])
    @pytest.mark.parametrize("number", [0, 1, 3])
    def test_failing_write_leaves_the_old_folder_whole(self, folder, monkeypatch, call, number):
        """Contract 8: whichever of the writes fails, the old adapter is there and loads, and nothing lies beside it."""
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        real, calls = getattr(os, call), []

        def fail(*args):
            calls.append(args)
            if len(calls) - 1 == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args)

        monkeypatch.setattr(os, call, fail)
        with pytest.raises(LoraScratchError, match="No space left on device"):
            save_adapter(adapted(seed=1), folder)
        monkeypatch.undo()
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert list(folder.parent.iterdir()) == [folder]
        load_adapter(tiny_distilbert(), folder)

    def test_folder_with_other_files_is_not_replaced(self, folder):
        """`save_adapter(model, "~")` must not empty a home directory."""
        (folder / "thesis.tex").write_text("years of work")
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(LoraScratchError, match=r"holds other files: thesis\.tex; .*choose a new or empty folder"):
            save_adapter(adapted(), folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    def test_empty_folder_is_filled(self, tmp_path):
        """A place that somebody made in advance is taken."""
        (tmp_path / "a").mkdir()
        save_adapter(adapted(), tmp_path / "a")
        assert (tmp_path / "a" / WEIGHTS).exists()


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


NO_OBJECTS = [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"{'r': 8}", b"[" * 10**5, b"9" * 5000]


class TestBytes:
    """A file that is not the one that was written."""

    @pytest.mark.parametrize("bit", [0, 70, 5_000, 80_000])
    def test_one_flipped_bit_is_refused(self, folder, bit):
        """Header, names or numbers: the hash beside it tells."""
        content = bytearray((folder / WEIGHTS).read_bytes())
        content[bit // 8] ^= 1 << bit % 8
        (folder / WEIGHTS).write_bytes(content)
        refused(folder, match=WEIGHTS)

    @pytest.mark.parametrize("origin", ["ours", "another tool's"])
    @pytest.mark.parametrize("size", [0, 1, 8, 100, 5000, -1])
    def test_truncated_file_is_refused(self, folder, size, origin):
        """PAINS 26: the 443-byte adapter, with or without a hash."""
        if origin != "ours":
            foreign(folder)
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[:size])
        refused(
            folder, match=rf"{WEIGHTS}: not a whole safetensors file .*; copy the adapter folder again, or train it again"
        )

    @pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
    def test_missing_file_is_refused(self, folder, name):
        """Said of the file, with what belongs there."""
        (folder / name).unlink()
        refused(folder, match=rf"{name}: can't be read \(No such file or directory\); expected an adapter folder")

    def test_missing_folder_is_refused(self, tmp_path):
        """A wrong path."""
        refused(tmp_path / "nowhere", match="nowhere.*No such file")

    @pytest.mark.parametrize("name", [CONFIG, PROVENANCE])
    @pytest.mark.parametrize("content", NO_OBJECTS, ids=lambda raw: str(raw[:9]))
    def test_json_that_is_none_is_refused(self, folder, name, content):
        """Empty, cut off, another type, another encoding."""
        (folder / name).write_bytes(content)
        refused(folder, match=rf"{name}: (not valid JSON|not a JSON object)")

    @pytest.mark.parametrize("name", [WEIGHTS, CONFIG, PROVENANCE])
    @pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
    def test_what_is_no_regular_file_is_refused(self, folder, name, kind):
        """A pipe would be waited on for ever, /dev/zero would fill the memory."""
        (folder / name).unlink()
        {
            "pipe": lambda path: os.mkfifo(path),
            "device": lambda path: path.symlink_to("/dev/zero"),
            "folder": lambda path: path.mkdir(),
        }[kind](folder / name)
        refused(folder, match=f"{name}: not a regular file; expected an adapter folder")

    def test_a_link_to_nothing_is_no_absent_provenance(self, folder):
        """Else everything that it would say goes unchecked."""
        (folder / PROVENANCE).unlink()
        (folder / PROVENANCE).symlink_to("nowhere")
        refused(folder, match=rf"{PROVENANCE}: can't be read \(No such file")

    def test_pickle_is_never_read(self, folder):
        """Contract 7: adapter_model.bin beside nothing is nothing."""
        (folder / WEIGHTS).rename(folder / "adapter_model.bin")
        refused(folder, match=WEIGHTS)


class TestConfig:
    """adapter_config.json says something else."""

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"r": 8}, r"has shape \(4, 32\), expected \(8, 32\)"),
            ({"r": 0}, "--rank: found 0"),
            ({"r": "4"}, "r is '4', expected a number"),
            ({"r": None}, "r is None, expected a number"),
            ({"r": True}, "r is True, expected a number"),
            ({"r": 2.5}, "--rank: found 2.5"),
            ({"r": 400}, "rank 400"),
            ({"lora_alpha": 0}, "--alpha: found 0"),
            ({"lora_alpha": "6"}, "lora_alpha is '6', expected a number"),
            ({"lora_alpha": None}, "lora_alpha is None, expected a number"),
            ({"lora_alpha": 10**400}, "lora_alpha is 10+, expected a number"),
            ({"alpha_pattern": ["k_lin"]}, r"alpha_pattern is \['k_lin'\], expected numbers by name"),
            ({"exclude_modules": [1]}, r"exclude_modules is \[1\], expected a list of names"),
            ({"layers_to_transform": [True]}, r"layers_to_transform is \[True\], expected a whole number or a list"),
            ({"use_rslora": "false"}, "use_rslora is 'false', expected true or false"),
            ({"lora_dropout": 1}, "--dropout: found 1"),
            ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
            ({"peft_type": None}, "peft_type is None"),
            ({"target_modules": None}, "target_modules is None"),
            ({"target_modules": []}, r"target_modules is \[\]|--targets"),
            ({"target_modules": [1]}, r"target_modules is \[1\]"),
            ({"target_modules": ["q_lin", "k_lin"]}, "v_lin.* is unexpected"),
            ({"target_modules": ["q_lin", "k_lin", "v_lin", "lin1"]}, r"lin1\.lora_A\.weight is missing"),
            ({"target_modules": ["q_lin", "k_lin", "v_lin", "typo"]}, "no module is called 'typo'"),
            ({"layer_replication": [[0, 2]]}, r"layer_replication is \[\[0, 2\]\], which is not supported"),
            ({"no_such_field": 3}, "no_such_field is 3, which is not supported"),
            ({"lora_bias": True}, "lora_bias is True, which is not supported"),
        ],
        ids=str,
    )
    def test_other_config_is_refused(self, folder, change, match):
        """PAINS 31 and 32: a field that changes the mathematics is honoured or refused, never passed over."""
        change_json(folder / CONFIG, lambda content: content.update(change))
        refused(folder, match=match)

    @pytest.mark.parametrize("change", [{"lora_alpha": 12}, {"use_rslora": True}, {"lora_alpha": 6.5}], ids=str)
    def test_other_scaling_than_at_the_time_of_writing_is_refused(self, folder, change):
        """PAINS 32: alpha and rsLoRA show in no tensor, so provenance.json keeps the scaling of each module."""
        change_json(folder / CONFIG, lambda content: content.update(change))
        error = refused(folder, match=r"alpha 6\.0, rank 4, scaling 1\.5; ")
        assert len(error.problems) == 6

    def test_everything_wrong_with_the_config_is_said_at_once(self, folder):
        """One run, all problems."""
        change_json(folder / CONFIG, lambda c: c.update(peft_type="X", no_such_field=1, target_modules=3))
        assert len(refused(folder).problems) == 3

    @pytest.mark.parametrize("field", ["r", "lora_alpha", "target_modules", "peft_type"])
    def test_missing_field_is_refused_by_name(self, folder, field):
        """There is no default for what decides the mathematics."""
        change_json(folder / CONFIG, lambda content: content.pop(field))
        assert field in str(refused(folder))

    @pytest.mark.parametrize(
        "change", [{"revision": "main"}, {"inference_mode": False}, {"corda_config": None}, {"new_in_2027": False}], ids=str
    )
    def test_field_that_changes_nothing_is_taken(self, folder, change):
        """PAINS 31: a newer PEFT adds fields; empty ones mean what they meant before."""
        change_json(folder / CONFIG, lambda content: content.update(change))
        load_adapter(tiny_distilbert(), folder)

    @pytest.mark.parametrize(
        "change",
        [
            {"config": 3},
            {"config": {"head_modules": 7}},
            {"config": {"head_modules": "classifier"}},
            {"config": {"head_modules": ["nope"]}},
            {"config": {"head_modules": [["classifier"]]}},
            {"seed": "x"},
            {"seed": None},
            {"base": 3},
            {"base": {"tensors": 5}},
            {"base": {"tensors": {"x": 1}}},
            {"base": {}},
            {"modules": 3},
            {"modules": {"x": {}}},
            {"adapter_sha256": 3},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("seal", [dict, sealed], ids=["old seal", "seal to match"])
    def test_nonsense_in_provenance_is_refused(self, folder, change, seal):
        """A typed error, not an AttributeError; also where the digest says that it was written so."""
        change_json(folder / PROVENANCE, lambda content: content.update(seal({**content, **change})))
        refused(folder)

    def test_notes_are_sealed(self, tmp_path):
        """Two labels in each other's place: the tensors are the same and every answer is wrong."""
        notes = {"labels": ["joy", "anger"], "more": {"b": (1, 2.5), "a": "ü"}}
        place = save_adapter(adapted(), tmp_path / "a", notes=notes)
        assert read_provenance(place).as_json()["more"] == {"b": [1, 2.5], "a": "ü"}
        text = (place / PROVENANCE).read_text(encoding="utf-8")
        (place / PROVENANCE).write_text(json.dumps(json.loads(text)))  # another layout is no other content
        read_provenance(place)
        change_json(place / PROVENANCE, lambda content: content["labels"].reverse())
        refused(place, match=rf"{PROVENANCE}: provenance_sha256 is not the SHA-256 of the other fields")


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


def test_a_missing_config_is_said_to_be_missing_and_not_malformed(tmp_path):
    """A file that is not there is no file with bad JSON in it."""
    with pytest.raises(AdapterFileError, match=r"can't be read \(No such file") as caught:
        read_json(tmp_path / "adapter_config.json")
    assert "JSON" not in str(caught.value)


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
