"""Any JSON value in any field of every JSON file that is read: a typed error or a valid object, and soon.

pytest -m torture tests/torture/test_json_files.py       400 documents of each file
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.alarm import no_hang
from support.any_json import VALUES, changed, text_of
from support.families import record, tiny
from support.report_pages import report
from support.tiny import tiny_distilbert, tiny_rows

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.errors import AdapterFileError, CheckpointError, ConfigError, LoraScratchError
from lora_scratch.evaluation.report import Report
from lora_scratch.runs import TRAIN_OPTIONS, check_same_run, is_finished, parse, recorded_run
from lora_scratch.serialization import load_adapter, problems_in_folder, read_provenance, save_adapter
from lora_scratch.serialization.adapter_folder import CONFIG, PROVENANCE, read_base_name
from lora_scratch.serialization.provenance import sealed
from lora_scratch.study.sweep import check_same_flags
from lora_scratch.tasks import make_task
from lora_scratch.training import Checkpoints, MetricsLog, TrainingConfig, train
from lora_scratch.training.checkpoint import VALUES as VALUES_FILE
from lora_scratch.training.checkpoint import _digests

SHORT, FULL = 40, 400
Door = Callable[[Any], object]  # reads one document
NOTES = {
    "labels": ["joy", "anger", "fear"],
    "decision": {"temperature": 1.5},
    "data": {"dataset": "rows", "max_tokens": 16, "text_column": "text"},
    "training": {"precision": "fp32", "seed": 0, "epochs": 2, "batch_size": 8, "learning_rate": 0.1},
    "trainable": "adapter_and_head",
    "command": "train",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder for all files."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def adapter(place) -> Path:
    """A saved adapter with everything in it."""
    patterns = {
        "rank_pattern": {"k_lin": 2},
        "alpha_pattern": {"q_lin": 3.5},
        "layers": [0, 1],
    }
    targets = {"targets": ["q_lin", "k_lin", "v_lin"], "exclude": ["layer.0.attention.v_lin"]}
    model = inject(tiny("distilbert"), LoRAConfig(rank=4, alpha=6, dropout=0.1, **targets, **patterns))
    return save_adapter(model, place / "adapter", base_model="tiny/base", notes=NOTES)


def provenance_door(adapter: Path) -> tuple[Any, Door]:
    """The document with a digest to match: what it says is what counts."""
    document = json.loads((adapter / PROVENANCE).read_text(encoding="utf-8"))

    def read(value: Any) -> object:
        """Read it, and use what decides."""
        with suppress(AttributeError):  # no object: there is nothing to seal
            value = sealed(value)
        (adapter / PROVENANCE).write_bytes(text_of(value))
        provenance = read_provenance(adapter)
        assert provenance is not None
        provenance.make_task()
        load_unchanged(adapter)
        return problems_in_folder(adapter)

    return document, read


def config_door(adapter: Path) -> tuple[Any, Door]:
    """adapter_config.json of a folder without provenance.json, as another tool writes it."""
    (adapter / PROVENANCE).unlink(missing_ok=True)
    document = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    others = {
        "bias": "none",
        "init_lora_weights": True,
        "layers_pattern": None,
        "layer_replication": None,
        "eva_config": None,
    }

    def read(value: Any) -> object:
        """Read it with and without the model."""
        (adapter / CONFIG).write_bytes(text_of(value))
        problems_in_folder(adapter)
        read_base_name(adapter)
        load_unchanged(adapter)
        return None

    return {**others, **document}, read


def load_unchanged(adapter: Path) -> None:
    """Load the folder; where it is refused, the model is as it was."""
    model = tiny("distilbert")
    before = record(model)
    try:
        load_adapter(model, adapter)
    except AdapterFileError:
        assert record(model) == before
        raise


def record_door(place: Path) -> tuple[Any, Door]:
    """config.json of a run."""
    folder = place / "run"
    folder.mkdir(exist_ok=True)
    options = [kind(**({"model": "m"} if kind.__name__ == "ModelOptions" else {})) for kind in TRAIN_OPTIONS]
    document = {
        **{type(part).__name__: {**vars(part)} for part in options},
        "labels": ["a", "b"],
        "task": "single_label",
        "data": {"dataset": "rows", "source": "rows", "digests": {"test": "ab"}},
        "training": {"seed": 0},
        "versions": {"torch": "2"},
        "command": "train",
        "base": {"name": "b", "tensors": {"w": {"float32": "ab" * 32}}},
    }

    def read(value: Any) -> object:
        """Read it, compare it, and make options of its flags."""
        (folder / "config.json").write_bytes(text_of(value))
        check_same_run(recorded_run(folder), document, folder=folder)
        with suppress(SystemExit):  # wrong usage, said by argparse
            return parse(TRAIN_OPTIONS, "", arguments=["--resume", str(folder), "--dataset", "rows"])
        return None

    return document, read


@pytest.fixture(scope="module")
def checkpoint(place) -> Path:
    """A checkpoint of a tiny training."""
    resumed(trained_model(), place / "state")
    checkpoints = Checkpoints(place / "state")
    return checkpoints.path(checkpoints.steps()[-1])


def resumed(model: Any, folder: Path) -> object:
    """Train for two epochs of two steps, from the last checkpoint of the folder if there is one."""
    settings = TrainingConfig(epochs=2, batch_size=8, learning_rate=1e-2, precision="fp32", device="cpu")
    log, checkpoints = MetricsLog(folder.parent / "metrics.jsonl"), Checkpoints(folder, keep=1)
    rows, validation = tiny_rows(16), tiny_rows(8, seed=1)
    how = {"pad_token_id": 0, "show_progress": False}
    return train(model, rows, validation, settings, checkpoints=checkpoints, log=log, **how)


def trained_model() -> Any:
    """An adapter to train."""
    return inject(tiny_distilbert(), LoRAConfig(rank=2, alpha=4, dropout=0.0))


def checkpoint_door(checkpoint: Path) -> tuple[Any, Door]:
    """values.json with digests to match."""
    document = json.loads((checkpoint / VALUES_FILE).read_text(encoding="utf-8"))["values"]
    tensors = (checkpoint / "tensors.safetensors").read_bytes()

    def read(value: Any) -> object:
        """Load it into a model before its training."""
        digests = _digests(tensors, value)
        (checkpoint / VALUES_FILE).write_bytes(text_of({"format": 1, "sha256": digests, "values": value}))
        model, before = trained_model(), record(trained_model())
        try:
            return resumed(model, checkpoint.parent)
        except CheckpointError:
            assert record(model) == before
            raise

    return document, read


def report_door(place: Path) -> tuple[Any, Door]:
    """report.json."""

    def read(value: Any) -> object:
        """Read it; what can be read is finished, and can be written again."""
        (place / "report.json").write_bytes(text_of(value))
        finished = is_finished(place)
        read = Report.read(place / "report.json")
        assert finished
        return read.as_json()

    return report().as_json(), read


def flags_door(place: Path) -> tuple[Any, Door]:
    """command.json of a comparison."""

    def read(value: Any) -> object:
        """Compare."""
        (place / "command.json").write_bytes(text_of(value))
        check_same_flags(place, ["--epochs", "2"])
        return None

    return ["--epochs", "2"], read


def yaml_door(place: Path) -> tuple[Any, Door]:
    """--config FILE.yaml."""

    def read(value: Any) -> object:
        """Make options of it."""
        (place / "job.yaml").write_text(yaml.safe_dump(value), encoding="utf-8", errors="backslashreplace")
        with suppress(SystemExit):
            return parse(TRAIN_OPTIONS, "", arguments=["--config", str(place / "job.yaml")])
        return None

    flags = {"model": "m", "dataset": "d", "rank": 4, "targets": ["q"], "rank_pattern": {"q": 2}, "linear_probe": True}
    return {**flags, "alpha_pattern": {"q": 1.5}, "layers": [0], "learning_rate": 0.1, "class_weights": "balanced"}, read


@pytest.fixture
def doors(place, adapter, checkpoint) -> dict[str, Callable[[], tuple[Any, Door]]]:
    """Every file, by its name."""
    return {
        "provenance.json": lambda: provenance_door(adapter),
        "adapter_config.json": lambda: config_door(adapter),
        "config.json": lambda: record_door(place),
        "values.json": lambda: checkpoint_door(checkpoint),
        "report.json": lambda: report_door(place),
        "command.json": lambda: flags_door(place / "comparison"),
        "job.yaml": lambda: yaml_door(place),
    }


DOORS = ("provenance.json", "adapter_config.json", "config.json", "values.json", "report.json", "command.json", "job.yaml")


def check(doors: dict[str, Callable[[], tuple[Any, Door]]], name: str, examples: int, place: Path) -> None:
    """Read changed documents; the good one is read first."""
    (place / "comparison").mkdir(exist_ok=True)
    document, read = doors[name]()
    read(document)

    phases = [Phase.generate, Phase.shrink]  # an explanation traces every line, which is slow

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), deadline=None, phases=phases)
    @given(value=changed(document))
    def one(value: Any) -> None:
        """A typed error or an object."""
        with no_hang(), suppress(LoraScratchError):
            read(value)

    one()


@pytest.mark.parametrize("name", DOORS)
def test_any_value_in_any_field_is_a_typed_error_or_an_object_in_a_short_sample(doors, name, place, capsys):
    """The sample of the torture below that runs with the ordinary suite."""
    check(doors, name, SHORT, place)


@pytest.mark.torture
@pytest.mark.parametrize("name", DOORS)
def test_any_value_in_any_field_is_a_typed_error_or_an_object(doors, name, place, capsys):
    """400 documents of each file."""
    check(doors, name, FULL, place)


@settings(max_examples=FULL, deadline=None)
@given(text=VALUES.map(json.dumps) | st.text() | st.sampled_from(["[" * 10**5, '{"a": ' * 10**5, '{"a": 1, "a": 2}']))
def test_any_text_in_a_flag_with_json_is_a_typed_error_or_an_object(text):
    """--rank_pattern, --alpha_pattern and --class_weights."""
    from lora_scratch.runs.flags import _mapping

    with suppress(argparse.ArgumentTypeError, ConfigError):
        content = _mapping(text)
        for name in ("rank_pattern", "alpha_pattern"):
            with suppress(ConfigError):
                LoRAConfig(**{name: content})
    with suppress(ConfigError):
        task = make_task("single_label", ("a", "b"))
        task.weighted(TrainingConfig(class_weights=text).weights_by_label, torch.tensor([0, 1]))
