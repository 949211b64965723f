"""lora_scratch/serialization/provenance.py: what is read is checked, all of it at once, and nothing is lost."""

import json

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
CORE = {
    "format": 1,
    "adapter_sha256": "ab",
    "base": {"name": "tiny/base", "tensors": {"q.weight": {"float32": "cd"}}},
    "config": {"head_modules": ["classifier"]},
    "seed": 5,
    "modules": {"q": {"rank": 4, "alpha": 6.0, "scaling": 1.5}},
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
        ("format", 2, "format is not 1"),
        ("labels", ["yes", "yes"], "labels is not a list of different names"),
        ("labels", "yes", "labels is not a list of different names"),
        ("labels", ["yes", 1], "labels is not a list of different names"),
        ("labels", ["yes", ["no"]], "labels is not a list of different names"),
        ("data", 3, "data is 3, which is no object"),
        ("data", {"max_tokens": "9"}, "data.max_tokens is '9', which is no int"),
        ("data", {"max_tokens": True}, "data.max_tokens is True, which is no int"),
        ("data", {"max_tokens": 0}, "data.max_tokens is 0, expected at least 1"),
        ("training", {"precision": 16}, "training.precision is 16, which is no str"),
        ("base", {"name": "x", "tensors": {"w": {"float32": 1}}}, "base is not name, precision and tensors of the base"),
        ("base", {"name": "x", "precision": None, "tensors": {}}, "base is not name, precision and tensors of the base"),
        ("modules", {"q": {"rank": "4"}}, "modules is not the settings of each module"),
        ("command", ["train"], "command is not a text"),
    ],
)
def test_an_entry_of_another_type_is_refused_by_name(entry, value, message):
    """Also where the digest says that it was written so."""
    with pytest.raises(AdapterFileError) as caught:
        Provenance.from_json(sealed({**CORE, entry: value}))
    assert caught.value.problems == (message,)


def test_all_problems_are_one_error():
    """The first does not hide the second, and the digest is one of them."""
    with pytest.raises(AdapterFileError) as caught:
        Provenance.from_json({**CORE, "seed": "x", "labels": [1], "data": {"dataset": 1, "max_tokens": 2.5}})
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "seed",
        "labels",
        "provenance_sha256",
        "data.dataset",
        "data.max_tokens",
    ]


def test_notes_that_could_not_be_read_again_are_not_written(tmp_path):
    """Refused before the folder is touched."""
    model = inject(tiny("distilbert"), LoRAConfig(rank=4))
    with pytest.raises(AdapterFileError, match="notes for save_adapter: labels is not a list of different names"):
        save_adapter(model, tmp_path / "adapter", notes={"labels": ["yes", "yes"]})
    assert list(tmp_path.iterdir()) == []
