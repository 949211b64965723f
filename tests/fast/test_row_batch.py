"""fast/row_batch.py and fast/segments.py: a batch by the numbers of its rows is the padded batch, in loss and gradients."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.families import tiny
from support.graphs import as_on_a_gpu
from support.passes import adapted
from support.tiny import VOCABULARY, tiny_distilbert, tiny_rows

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.data import collate
from lora_scratch.fast import path, row_batch
from lora_scratch.fast.fused_lora import fused_updates
from lora_scratch.fast.packed import packed
from lora_scratch.fast.row_batch import fill_up
from lora_scratch.fast.segments import Segments, exact_attention, flash_attention
from lora_scratch.model.forward import classify
from lora_scratch.training import Checkpoints, MetricsLog, TrainingConfig, train

FAMILIES = ["distilbert", "bert", "roberta", "electra", "xlm-roberta", "camembert", "ernie"]
TYPED = ["bert", "electra", "ernie"]
ROWS = tiny_rows()
BATCHES = {"uneven": [0, 5, 3, 7, 20, 11], "one row": [4], "all rows": range(len(ROWS)), "twice the same": [2, 2]}


def with_types(rows):
    """The second half of every token range is of the second text."""
    return replace(rows, token_types=(torch.arange(len(rows.tokens)) % 5 > 2).to(torch.uint8))


def loss_and_gradients(model, batch):
    """In float64, of every parameter that has one."""
    model.zero_grad(set_to_none=True)
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    loss = F.cross_entropy(classify(model, batch), batch.labels, weight=weights)
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def by_number(model, rows, numbers):
    """The same by row numbers, with the fused update."""
    with packed(model), fused_updates(model):
        return loss_and_gradients(model, row_batch.row_batch(rows, list(numbers), exact_attention))


def assert_equal(found, expected):
    """To 1e-9 of the largest gradient."""
    assert found.keys() == expected.keys()
    size = max(float(tensor.abs().max()) for tensor in expected.values())
    for name, tensor in expected.items():
        assert float((found[name] - tensor).abs().max()) < 1e-9 * size, name


@pytest.mark.parametrize("numbers", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_padded_batch(family, numbers):
    """In float64, without dropout, in every family that packs."""
    model = adapted(family).double()
    padded = collate(ROWS, list(numbers), pad_token_id=0)
    assert_equal(by_number(model, ROWS, numbers), loss_and_gradients(model, padded))


@pytest.mark.parametrize("family", TYPED)
def test_token_types_of_pairs_are_those_of_the_padded_batch(family):
    """And they matter."""
    model, rows, numbers = adapted(family).double(), with_types(ROWS), BATCHES["uneven"]
    found = by_number(model, rows, numbers)
    assert_equal(found, loss_and_gradients(model, collate(rows, numbers, pad_token_id=0)))
    assert float((found["loss"] - by_number(model, ROWS, numbers)["loss"]).abs()) > 1e-5


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_every_weight_has_its_gradient_of_the_padded_batch(family):
    """Embeddings, positions, norms: also where nothing is frozen, rows that fill up add nothing."""
    model = tiny(family).double().train()
    expected = loss_and_gradients(model, collate(ROWS, BATCHES["uneven"], pad_token_id=0))
    assert_equal(by_number(model, ROWS, BATCHES["uneven"]), expected)


def test_a_padding_token_in_a_text_has_robertas_number():
    """None: and the tokens after it count on."""
    model, tokens = adapted("roberta").double(), ROWS.tokens.clone()
    tokens[ROWS.offsets[:-1] + 1] = 0
    rows = replace(ROWS, tokens=tokens)
    expected = loss_and_gradients(model, collate(rows, BATCHES["uneven"], pad_token_id=0))
    assert_equal(by_number(model, rows, BATCHES["uneven"]), expected)


def test_rows_that_fill_up_change_nothing_whatever_they_are(monkeypatch):
    """Many of them, in a bucket of another size, with tokens of another text: loss and gradients stay."""
    model, numbers = adapted("bert").double(), BATCHES["uneven"]
    expected = by_number(model, ROWS, numbers)
    monkeypatch.setattr(row_batch, "MULTIPLE", 64)
    other = replace(ROWS, tokens=torch.cat([ROWS.tokens[:1], ROWS.tokens[1:].flip(0)]))
    assert not torch.equal(other.tokens, ROWS.tokens)
    assert_equal(by_number(model, ROWS, numbers), expected)
    with pytest.raises(AssertionError):
        assert_equal(by_number(model, other, numbers), expected)  # the twin: other tokens of the rows that count


def test_attention_that_mixes_rows_would_be_seen():
    """The twin: with one row in place of many, the loss is another."""

    def mixing(q, k, v, starts, longest, scaling, dropout):
        alone = [torch.tensor([0, len(x)], dtype=torch.int32) for x in (q, k)]
        return exact_attention(q, k, v, alone, longest, scaling, dropout)

    model, numbers = adapted("bert").double(), BATCHES["uneven"]
    expected = by_number(model, ROWS, numbers)
    with packed(model):
        found = loss_and_gradients(model, row_batch.row_batch(ROWS, numbers, mixing))
    assert float((found["loss"] - expected["loss"]).abs()) > 1e-4


@pytest.mark.parametrize("longest", [2, 12, 60, 512])
@pytest.mark.parametrize("tokens", [1, 7, 8, 63, 64, 65, 640, 30_011])
def test_a_bucket_is_filled_up_by_rows_no_longer_than_the_longest(tokens, longest):
    """A multiple of 8; a quarter more at most, and some rows; no row empty."""
    size, filling = fill_up(tokens, longest=longest)
    assert size % 8 == 0
    assert size == tokens + sum(filling)
    assert all(1 <= length <= longest for length in filling)
    assert size - tokens <= max(8, tokens / 4) + len(filling)


def test_few_sizes_serve_all_batches():
    """About four between two powers of two."""
    shapes = {(size, len(filling)) for size, filling in (fill_up(tokens, longest=60) for tokens in range(160, 2000))}
    assert len({size for size, _ in shapes}) <= 17
    assert len(shapes) <= 20


def test_a_batch_in_pieces_is_the_batch():
    """Rows, labels and numbers: what an out-of-memory error does to it."""
    batch = row_batch.row_batch(ROWS, [3, 1, 4, 1, 5], exact_attention)
    assert batch.chunk(1) == [batch]
    parts = batch.chunk(2)
    assert torch.cat([part.rows for part in parts]).tolist() == [3, 1, 4, 1, 5] == batch.rows.tolist()
    assert torch.equal(torch.cat([part.labels for part in parts]), ROWS.labels[[3, 1, 4, 1, 5]])


def test_the_device_builds_a_batch_without_the_host_reading_a_number(monkeypatch):
    """On `meta` a tensor has no numbers: ids, positions, types and labels need none, and neither do the kernels of a GPU
    nor their gradients."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)  # a meta tensor has none
    model = inject(tiny("bert"), LoRAConfig(rank=4, alpha=8, dropout=0.1), seed=0).bfloat16().train().to("meta")
    rows = with_types(ROWS).to("meta")
    model.config.attention_probs_dropout_prob = 0.1
    batch = row_batch.row_batch(rows, [1, 2, 3], flash_attention)
    assert batch.numbers.is_meta
    with packed_on_meta(model), fused_updates(model):
        logits = classify(model, batch)
    F.cross_entropy(logits.float(), batch.labels).backward()
    assert logits.shape == (3, 3)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def packed_on_meta(model):
    """`packed`, told that the model is on a CPU: a meta tensor is on no device that packs."""
    model.__class__ = type(model.__class__.__name__, (model.__class__,), {"device": torch.device("cpu")})
    return packed(model)


SETTINGS = {
    "plain": {},
    "accumulation": {"accumulation_steps": 3, "batch_size": 2},
    "class weights, LoRA+, no clipping": {"class_weights": '{"0": 3}', "loraplus_ratio": 4.0, "clip_norm": 0.0},
}


def losses(*, dropout=0.0, checkpoints=None, stop_at=None, **settings):
    """The losses of a training, and the trained tensors at its end."""
    model = inject(tiny_distilbert(dropout=dropout), LoRAConfig(rank=4, alpha=8, dropout=dropout), seed=0)
    model.config.id2label, model.config.label2id = {n: str(n) for n in range(3)}, {str(n): n for n in range(3)}
    config = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "precision": "fp32", **settings}

    def note(event):
        if event["event"] == "step" and event["step"] == stop_at:
            raise KeyboardInterrupt

    log, options = MetricsLog(listener=note), {"pad_token_id": 0, "show_progress": False, "checkpoints": checkpoints}
    try:
        train(model, ROWS, ROWS, TrainingConfig(**config), log=log, **options)
    except KeyboardInterrupt:
        assert stop_at is not None
    found = [event["loss"] for event in log.events if event["event"] == "step"]
    return found, {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_training_by_row_numbers_has_the_losses_of_the_plain_one(settings, monkeypatch):
    """The whole loop: recorded gradients and updates, learning rates as tensors, steps that are measured in between."""
    expected, weights = losses(plain=True, **settings)
    with as_on_a_gpu(monkeypatch) as recorders:
        found, trained = losses(**settings)
    assert found == pytest.approx(expected, rel=1e-4)
    for name, tensor in weights.items():
        assert torch.allclose(trained[name], tensor, atol=1e-4), name
    replays = [recording.replays for recorder in recorders for recording in recorder.recordings]
    assert len(replays) > 2
    assert sum(replays) > len(found) / 2


def test_a_resumed_training_by_row_numbers_ends_with_the_same_bits(monkeypatch, tmp_path):
    """With dropout: it records at other steps than the undisturbed one, and that changes nothing."""
    with as_on_a_gpu(monkeypatch):
        expected = losses(dropout=0.1)[1]
        kept = Checkpoints(tmp_path, save_steps=7)
        losses(dropout=0.1, checkpoints=kept, stop_at=15)
        found = losses(dropout=0.1, checkpoints=kept)[1]
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_rows_of_one_token_are_padded():
    """There is no row of two tokens to fill up with."""
    rows = replace(ROWS, offsets=torch.arange(len(ROWS) + 1))
    assert path.FastPath(None, exact_attention).batch(rows, [0, 1]) is None
    assert path.FastPath(None, exact_attention).batch(ROWS, [0, 1]).shape[0] % 8 == 0


def test_segments_know_where_rows_start():
    """Three rows of 3, 1 and 2 tokens, and two that fill up."""
    lengths = torch.tensor([3, 1, 2, 1, 1])
    rows = replace(tiny_rows(), offsets=torch.tensor([0, 3, 4, 6]), tokens=torch.arange(1, 7), labels=torch.arange(3))
    batch = row_batch.RowBatch(
        rows, torch.stack([lengths * 0, lengths * 0, lengths]), rows=3, tokens=8, kernel=exact_attention
    )
    segments = batch.inputs["packing"]
    assert isinstance(segments, Segments)
    assert segments.starts.tolist() == [0, 3, 4, 6, 7, 8]
    assert segments.position.tolist() == [0, 1, 2, 0, 0, 1, 0, 0]
    assert VOCABULARY > 0
