"""lora_scratch/deploy/classify.py: texts of any number, labelled in their order, a window at a time."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.command_line import call
from support.folders import save_base
from support.saved_adapters import save_task_adapter
from support.tiny_models import save_tiny

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject
from lora_scratch.commands import predict
from lora_scratch.deploy.classify import Classifier, windows
from lora_scratch.fast import frozen_weights
from lora_scratch.runs import TrainedAdapter, open_base
from lora_scratch.runtime.precision import Precision
from lora_scratch.serialization import DataRecord, Provenance

FP32 = Precision(torch.float32, torch.device("cpu"))
LABELS = ("no", "yes", "perhaps")
WORDS = ("happy", "sad", "very", "i", "am", "not", "friend", "day", "so", "because")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("classify") / "base", labels=LABELS)


@pytest.fixture
def saved(folder):
    """An adapter off its start, as `open_adapter` gives one."""
    base = open_base(str(folder), labels=LABELS)
    inject(base.model, config := LoRAConfig(rank=4, alpha=8))
    for layer in adapter_layers(base.model).values():
        torch.nn.init.normal_(layer.lora_B)
    return TrainedAdapter(base, config, Provenance(labels=LABELS, data=DataRecord(max_tokens=32)))


def texts_of_uneven_length(count):
    choice = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 9, (count,), generator=choice).tolist()
    return [" ".join(WORDS[(row + place) % len(WORDS)] for place in range(n)) + f" {row}" for row, n in enumerate(lengths)]


@torch.no_grad()
def alone(saved, text):
    """What the adapted model says of one text, without window, batch or merging."""
    batch = saved.base.tokenizer([text], return_tensors="pt")
    return saved.base.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0].softmax(-1)


@pytest.mark.skipif(not frozen_weights.can_be_packed(torch.empty(2, 2), torch.bfloat16), reason="nothing is packed here")
def test_weights_are_packed_by_the_first_call_for_all(saved, monkeypatch):
    """Someone who asks for one text after another does not wait for all weights each time."""
    packed, pack = [], frozen_weights.pack_weight
    monkeypatch.setattr(frozen_weights, "pack_weight", lambda weight: packed.append(weight.shape) or pack(weight))
    classify = Classifier(saved, precision=Precision(torch.bfloat16, torch.device("cpu")))
    first, count = list(classify(["so happy"])), len(packed)
    assert list(classify(["so happy"])) == first
    assert len(packed) == count > 0


def test_every_text_gets_what_it_gets_alone_in_the_order_of_the_texts(saved):
    """Across windows and batches that sort by length."""
    texts = texts_of_uneven_length(23)
    expected = [alone(saved, text) for text in texts]
    found = list(Classifier(saved, precision=FP32, batch_tokens=30)(iter(texts), rows=10))
    assert [each.text for each in found] == texts
    for each, scores in zip(found, expected, strict=True):
        assert list(each.answer["scores"].values()) == pytest.approx(scores.tolist(), abs=1e-5)
        assert each.answer["label"] == LABELS[int(scores.argmax())]


def test_no_more_than_a_window_is_read_ahead(saved):
    """The first result comes before the texts after its window are asked for."""
    read = []
    texts = (read.append(text) or text for text in texts_of_uneven_length(30))
    next(Classifier(saved, precision=FP32)(texts, rows=10))
    assert len(read) == 10


def test_no_texts_give_no_results(saved):
    """An empty file is no error."""
    assert list(Classifier(saved, precision=FP32)([])) == []


@given(st.lists(st.text("ab", max_size=6)), st.integers(1, 5), st.integers(1, 12))
def test_windows_hold_every_text_once_in_order_within_both_limits(texts, rows, characters):
    """Only a window's last text may carry it over the limit of characters: a text is never cut."""
    found = list(windows(iter(texts), rows=rows, characters=characters))
    assert [text for window in found for text in window] == texts
    for window in found:
        assert 1 <= len(window) <= rows
        assert sum(map(len, window[:-1])) < characters


MEMORY = """
import sys
import torch
from itertools import cycle, islice
from pathlib import Path
from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.deploy.classify import Classifier
from lora_scratch.runs import TrainedAdapter, open_base
from lora_scratch.runtime.memory import peak_bytes
from lora_scratch.runtime.precision import Precision
from lora_scratch.serialization import DataRecord, Provenance

torch.set_num_threads(1)
base = open_base(sys.argv[1])
inject(base.model, config := LoRAConfig(rank=4, alpha=8))
rows = DataRecord(max_tokens=32)
saved = TrainedAdapter(base, config, Provenance(labels=("no", "yes", "perhaps"), data=rows))
classify = Classifier(saved, precision=Precision(torch.float32, torch.device("cpu")))
peaks = []
for count in (100, 5_000):
    texts = islice(cycle(f"i am so happy {'very ' * (row % 9)}today" for row in range(100)), count)
    assert sum(1 for _ in classify(texts, rows=100)) == count
    peaks.append(peak_bytes())
print(*peaks)
"""


def test_memory_stays_flat_as_the_texts_grow_fifty_times(folder):
    """Peak memory of the process after 100 and after 5,000 texts, within 5 %."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after <= 1.05 * before


@pytest.mark.skipif(not frozen_weights.can_be_packed(torch.empty(2, 2), torch.bfloat16), reason="nothing is packed here")
def test_a_family_that_computes_in_float32_alone_multiplies_in_float32(tmp_path, capsys):
    """DeBERTa, asked for bfloat16 in its adapter: its frozen weights were rounded, its inputs were not, and torch raised."""
    adapter = save_task_adapter(tmp_path, base=save_tiny("deberta", tmp_path / "tiny"), precision="bf16")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a film is good", "adapter": "one"}\n', encoding="utf-8")
    answers = []
    for words in ([adapter, "a film is good"], ["--adapters", f"one={adapter}", "--file", rows]):
        for precision in ("bf16", "fp32"):
            assert call(predict, *words, "--precision", precision) == 0
            answers.append(json.loads(capsys.readouterr().out)["scores"])
    assert all(answer == pytest.approx(answers[0], abs=1e-5) for answer in answers)
