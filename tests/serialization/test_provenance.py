"""lora_scratch/serialization/provenance.py: what is read is checked, all of it at once, and nothing is lost."""

import json
import re

import pytest
from support.families import tiny

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.errors import AdapterFileError
from lora_scratch.serialization import Provenance, read_provenance, save_adapter
from lora_scratch.serialization.provenance import sealed

NOTES = {
    "labels": ["joy", "anger"],
    "data": {"dataset": "rows", "max_tokens": 16, "digests": {"test": "ab"}},
    "training": {"precision": "bf16", "seed": 3, "learning_rate": 1},
    "of another tool": {"a": [1, None]},
}
SETTINGS = {"rank": 4, "alpha": 6.0, "scaling": 1.5}
CORE = {
    "format": 1,
    "adapter_sha256": "ab" * 32,
    "base": {"name": "tiny/base", "tensors": {"q.weight": {"float32": "cd" * 32}}},
    "config": {"head_modules": ["classifier"]},
    "seed": 5,
    "modules": {"q": SETTINGS},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An adapter with notes."""
    model = inject(tiny("distilbert"), LoRAConfig(rank=4))
    return save_adapter(model, tmp_path_factory.mktemp("saved") / "adapter", base_model="tiny/base", notes=NOTES)


def test_every_entry_has_its_type(folder):
    """What the notes of save_adapter say, and what it says itself."""
    provenance = read_provenance(folder)
    assert provenance.labels == ("joy", "anger")
    assert (provenance.data.dataset, provenance.data.max_tokens, provenance.data.source) == ("rows", 16, None)
    assert (provenance.training.precision, provenance.training.seed) == ("bf16", 3)
    assert (provenance.base.name, provenance.base.precision, provenance.seed) == ("tiny/base", "full", 0)
    assert provenance.head_modules == ("pre_classifier", "classifier")


def test_reading_and_writing_lose_nothing(folder):
    """Entries of other tools too, at every depth, and the digest with them."""
    document = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    again = Provenance.from_json(Provenance.from_json(document).as_json())
    assert again.as_json() == document
    assert again.select("of another tool", "nothing") == {"of another tool": {"a": [1, None]}}
    assert again.document["data"]["digests"] == {"test": "ab"}


def test_what_may_be_absent_is_absent():
    """Folders of before have no precision of the base, and other programs note nothing."""
    provenance = Provenance.from_json(sealed(CORE))
    assert provenance.base.precision == "full"
    assert (provenance.labels, provenance.data.max_tokens, provenance.training.seed) == ((), None, None)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("format", 2, "format is 2, expected a number from 1 to 1"),
        ("adapter_sha256", "AB", "adapter_sha256 is 'AB', expected a SHA-256 in hex"),
        ("labels", ["yes", "yes"], "labels is ['yes', 'yes'], expected different names"),
        ("labels", "yes", "labels is 'yes', expected a list"),
        ("labels", ["yes", 1], "labels[1] is 1, expected a text"),
        ("labels", ["yes", ["no"]], "labels[1] is ['no'], expected a text"),
        ("seed", 2**63, f"seed is {2**63}, expected a number from {-(2**63):,} to {2**63 - 1:,}"),
        ("data", 3, "data is 3, expected an object"),
        ("data", {"dataset": "a\0b"}, "data.dataset is 'a\\x00b', expected a text without NUL"),
        ("data", {"max_tokens": "9"}, "data.max_tokens is '9', expected a whole number"),
        ("data", {"max_tokens": True}, "data.max_tokens is True, expected a whole number"),
        ("data", {"max_tokens": 0}, "data.max_tokens is 0, expected a number from 1 to 2,147,483,647"),
        ("data", {"max_tokens": 2**40}, f"data.max_tokens is {2**40}, expected a number from 1 to 2,147,483,647"),
        ("training", {"precision": 16}, "training.precision is 16, expected a text"),
        ("training", {"precision": "int8"}, "training.precision is 'int8', expected auto or fp32 or bf16 or fp16"),
        ("training", {"seed": -1}, f"training.seed is -1, expected a number from 0 to {2**63 - 1:,}"),
        ("base", {"name": "x", "tensors": {"w": {"float32": 1}}}, "base.tensors.w.float32 is 1, expected a text"),
        ("base", {"name": "x", "precision": None, "tensors": {}}, "base.precision is None, expected a text"),
        ("base", {"name": "x", "precision": "save", "tensors": {}}, "base.precision is 'save', expected full or nf4"),
        ("base", {"tensors": {}}, "base.name is missing"),
        ("config", {"head_modules": "x"}, "config.head_modules is 'x', expected a list"),
        ("modules", {"q": {**SETTINGS, "rank": "4"}}, "modules.q.rank is '4', expected a whole number"),
        ("modules", {"q": {**SETTINGS, "rank": 0}}, "modules.q.rank is 0, expected a number from 1 to 2,147,483,647"),
        ("modules", {"q": {**SETTINGS, "scaling": 0}}, "modules.q.scaling is 0, expected a number above 0"),
        ("command", ["train"], "command is ['train'], expected a text"),
        ("task", ["x"], "task is ['x'], expected a text"),
        ("decision", {"temperature": 0}, "decision.temperature is 0, expected a number from 1e-06 to 1,000,000.0"),
        ("decision", {"thresholds": {"a": 0.5}}, "decision.thresholds has no meaning for task single_label"),
    ],
)
def test_an_entry_of_another_type_or_range_is_refused_by_name(entry, value, message):
    """Also where the digest says that it was written so."""
    with pytest.raises(AdapterFileError) as caught:
        Provenance.from_json(sealed({**CORE, entry: value}))
    assert caught.value.problems == (message,)


@pytest.mark.parametrize(
    ("task", "labels", "decision", "message"),
    [
        ("regression", ["a", "b"], {}, "labels has 2 names, expected one for task regression"),
        ("regression", ["a"], {"temperature": 2.0}, "decision.temperature has no meaning for task regression"),
        ("multi_label", ["a", "b"], {"thresholds": {"a": 0.5}}, "decision.thresholds is for ['a'], expected one of every"),
        ("multi_label", ["a"], {"thresholds": {"a": 1.5}}, "decision.thresholds.a is 1.5, expected a number from 0 to 1"),
        ("multi_label", ["a"], {"thresholds": {"x": 0.5}}, "decision.thresholds is for ['x'], expected one of every label"),
    ],
)
def test_a_decision_that_does_not_fit_the_task_is_refused(task, labels, decision, message):
    """A threshold of an unknown label would be passed over, and one that is missing would be taken for a half."""
    with pytest.raises(AdapterFileError, match=re.escape(message)):
        Provenance.from_json(sealed({**CORE, "task": task, "labels": labels, "decision": decision}))


def test_all_problems_are_one_error():
    """The first does not hide the second, and the digest is one of them."""
    with pytest.raises(AdapterFileError) as caught:
        Provenance.from_json({**CORE, "seed": "x", "labels": [1], "data": {"dataset": 1, "max_tokens": 2.5}})
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "seed",
        "labels[0]",
        "data.dataset",
        "data.max_tokens",
        "provenance_sha256",
    ]


def test_notes_that_could_not_be_read_again_are_not_written(tmp_path):
    """Refused before the folder is touched."""
    model = inject(tiny("distilbert"), LoRAConfig(rank=4))
    with pytest.raises(
        AdapterFileError, match=r"notes for save_adapter: labels is \['yes', 'yes'\], expected different names"
    ):
        save_adapter(model, tmp_path / "adapter", notes={"labels": ["yes", "yes"]})
    assert list(tmp_path.iterdir()) == []
