"""lora_scratch/serialization/adapter_folder.py: a file that is not what was written is refused by name."""

import json
import os

import pytest
from support.adapter_files import CONFIG, PROVENANCE, WEIGHTS, adapted, change_json, foreign, refused
from support.tiny import tiny_distilbert

from lora_scratch.errors import AdapterFileError
from lora_scratch.serialization import load_adapter, read_provenance, save_adapter
from lora_scratch.serialization.adapter_folder import _read_json as read_json
from lora_scratch.serialization.provenance import sealed

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


def test_a_missing_config_is_said_to_be_missing_and_not_malformed(tmp_path):
    """A file that is not there is no file with bad JSON in it."""
    with pytest.raises(AdapterFileError, match=r"can't be read \(No such file") as caught:
        read_json(tmp_path / "adapter_config.json")
    assert "JSON" not in str(caught.value)
