"""lora_scratch/serialization/save.py: what is saved comes back bit for bit, and is whole or absent."""

import errno
import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import load_file
from support.adapter_files import CONFIG, PROVENANCE, Q0, WEIGHTS, adapted
from support.families import logits, record, tiny
from support.tiny import tiny_distilbert
from torch import nn

from lora_scratch.adapter import LoRAConfig, adapter_layers, disabled, inject, merge_all, remove_adapter
from lora_scratch.errors import LoraScratchError
from lora_scratch.serialization import load_adapter, read_provenance, save_adapter
from lora_scratch.testing import move_adapter


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
