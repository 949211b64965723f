"""fast/path.py as a whole, all levers on, against the plain path: logits and the gradient of every trained tensor.

Whatever the CPU says of itself (machines.py): the route of the products follows from that, and no test forces another one.
"""

import itertools

import pytest
import torch
from support.families import tiny
from support.machines import MACHINES, playing
from support.passes import adapted, batch_of, largest_difference, logits_and_gradients
from support.tiny import VOCABULARY
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject
from lora_scratch.fast import onednn
from lora_scratch.fast.path import fast_path
from lora_scratch.model.forward import forward_path
from lora_scratch.runtime.precision import Precision

FAMILIES = ["distilbert", "bert", "roberta", "electra", "xlm-roberta", "camembert", "ernie"]
MOMENTS = [*FAMILIES[:2], *(pytest.param(name, marks=pytest.mark.torture) for name in FAMILIES[2:])]  # 3 s each
LENGTHS = {
    "uneven": [7, 3, 5, 2, 7, 4],
    "one row": [5],
    "one token": [1],
    "one token each": [1, 1, 1],
    "all equal": [6, 6, 6],
    "one very long row": [2, 60, 3],
    "an odd number": [4, 9, 2, 6, 3, 8, 5],
}
CPU = torch.device("cpu")


def triples():
    """Every family with every batch on every machine; all is torture but a Latin square, which has every pair of two."""
    size = max(len(MACHINES), len(LENGTHS), len(FAMILIES))
    for numbers in itertools.product(range(len(MACHINES)), range(len(LENGTHS)), range(len(FAMILIES))):
        names = [list(axis)[number] for axis, number in zip((MACHINES, LENGTHS, FAMILIES), numbers, strict=True)]
        yield pytest.param(*names, marks=pytest.mark.torture if sum(numbers) % size else [])


def test_the_latin_square_has_every_pair():
    """Also when a family is added."""
    quick = [param.values for param in triples() if not param.marks]
    for one, other in itertools.combinations(range(3), 2):
        axes = (MACHINES, LENGTHS, FAMILIES)
        assert len({(names[one], names[other]) for names in quick}) == len(axes[one]) * len(axes[other])


@pytest.fixture(params=MACHINES.values(), ids=MACHINES)
def float32_machine(request):
    """Each of them, unless this one can't multiply float32 as it would."""
    with playing(request.param):
        yield


@pytest.fixture(params=MACHINES.values(), ids=MACHINES)
def bfloat16_machine(request):
    """The same for bfloat16."""
    with playing(request.param, torch.bfloat16):
        yield


def both(model, batch, dtype=torch.float32):
    """Plain and fast."""
    autocast = dtype is not torch.float32
    plain = logits_and_gradients(model, batch, autocast=autocast)
    with fast_path(model, Precision(dtype, CPU)):
        return plain, logits_and_gradients(model, batch, autocast=autocast)


@pytest.mark.parametrize(("machine", "lengths", "family"), list(triples()))
def test_fast_logits_and_gradients_are_the_plain_ones(machine, lengths, family):
    """Float32, no dropout: within 1e-5 of the largest entry, whatever the shape of the batch."""
    with playing(MACHINES[machine]):
        plain, fast = both(adapted(family), batch_of(LENGTHS[lengths]))
    assert largest_difference(fast, plain) < 1e-5


@pytest.mark.usefixtures("float32_machine")
@pytest.mark.parametrize("lengths", [[512], [512, 3, 200]])
def test_fast_is_plain_at_the_longest_rows_a_model_reads(lengths):
    """512 tokens: positions to the last, one row that fills it and short ones beside it."""
    torch.manual_seed(0)
    sizes = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2, "num_labels": 3, "max_position_embeddings": 512}
    config = DistilBertConfig(vocab_size=VOCABULARY, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, **sizes)
    model = inject(DistilBertForSequenceClassification(config), LoRAConfig(rank=4, alpha=12, dropout=0.0)).train()
    for layer in adapter_layers(model).values():
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    plain, fast = both(model, batch_of(lengths))
    assert largest_difference(fast, plain) < 1e-5


def test_a_float32_product_that_rounds_to_bfloat16_would_be_seen(monkeypatch):
    """The route that AMX forbids, forced: the limit of the two tests above is passed a hundred times."""
    with playing(MACHINES["AMX"]):
        monkeypatch.setattr(onednn, "helps", lambda _: True)
        plain, fast = both(adapted("bert"), batch_of(LENGTHS["uneven"]))
    assert largest_difference(fast, plain) > 1e-3


@pytest.mark.usefixtures("bfloat16_machine")
@pytest.mark.parametrize("family", FAMILIES)
def test_fast_bfloat16_is_as_near_to_float32_as_plain_bfloat16_is(family):
    """Both round, in other places: neither logits nor any gradient of the fast path may be further off than 6e-2 of the
    rms, nor than twice what plain autocast is off."""
    model, batch = adapted(family), batch_of(LENGTHS["uneven"])
    exact = logits_and_gradients(model, batch)
    plain, fast = both(model, batch, torch.bfloat16)
    for name, expected in exact.items():
        scale = max(float(expected.square().mean().sqrt()), 1e-2 * float(exact["logits"].square().mean().sqrt()))
        off, plain_off = (float((found[name] - expected).square().mean().sqrt()) / scale for found in (fast, plain))
        assert off < max(6e-2, 2 * plain_off), name


@pytest.mark.parametrize("family", MOMENTS)
def test_fast_dropout_has_the_mean_and_the_spread_of_plain_dropout(family):
    """Other random numbers, the same law: the gradient's mean over many draws agrees within four standard errors, and the
    logits' standard deviation within a fifth."""
    model, batch = inject(tiny(family), LoRAConfig(rank=4, alpha=12, dropout=0.3)).train(), batch_of(LENGTHS["uneven"])
    for layer in adapter_layers(model).values():
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    draws = {False: [], True: []}
    for plain in draws:
        torch.manual_seed(0)
        with forward_path(model, Precision(torch.float32, CPU), plain=plain):
            for _ in range(200):
                found = logits_and_gradients(model, batch)
                draws[plain].append(torch.cat([tensor.flatten() for tensor in found.values()]))
    fast, plain = torch.stack(draws[False]), torch.stack(draws[True])
    error = ((fast.var(0) + plain.var(0)) / len(fast)).sqrt()
    gap = (fast.mean(0) - plain.mean(0)).abs() / error.clamp_min(1e-9)
    assert (gap > 4).float().mean() < 1e-3
    logits = slice(0, batch.labels.numel() * 3)
    assert torch.allclose(fast[:, logits].std(0), plain[:, logits].std(0), rtol=0.3)
