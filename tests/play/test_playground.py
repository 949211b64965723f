"""The model is after every request what it was before, and a wrong request is one line."""

import threading

import pytest
import torch
from support.task_jobs import PAIR
from support.tiny import tiny_distilbert

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject
from lora_scratch.errors import ConfigError, DataError
from lora_scratch.play.directions import fixed_rank, keep_directions
from lora_scratch.play.state import State

TEXT = "i am so happy today"


def bits(model):
    """Every tensor with its memory, and every switch."""
    layers = [(layer.enabled, layer.scaling, layer.merged) for layer in adapter_layers(model).values()]
    tensors = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.state_dict().items()}
    return layers, tensors, [len(module._forward_hooks) for module in model.modules()]


def same(before, after):
    """Whether nothing was changed."""
    tensors = zip(before[1].items(), after[1].items(), strict=True)
    equal = all(n == m and a[0] == b[0] and torch.equal(a[1], b[1]) for (n, a), (m, b) in tensors)
    return before[0] == after[0] and before[2] == after[2] and equal


def test_a_request_leaves_the_model_bit_for_bit(playground):
    """Also one that fails in the middle."""
    model = playground.adapters["single"].model
    before, name = bits(model), next(iter(adapter_layers(model)))
    for change in (
        {"strength": 2.0},
        {"rank": 1},
        {"off": (name,)},
        {"strength": -0.5, "rank": 2, "off": (name,), "row": 1},
    ):
        playground.answer(State("single", TEXT, **change))
        assert same(before, bits(model))
    for wrong in ({"off": ("nowhere",)}, {"module": "nowhere"}):
        with pytest.raises(ConfigError):
            playground.answer(State("single", TEXT, rank=1, strength=2.0, **wrong))
        assert same(before, bits(model))


def test_outputs_that_are_not_finite_are_an_error_and_leave_the_model(playground, monkeypatch):
    """Not a number that JSON can't hold."""
    played = playground.adapters["single"]
    playground.answer(State("single", TEXT))
    before = bits(played.model)
    monkeypatch.setattr("lora_scratch.play.played.classify", lambda model, batch: torch.full((1, 2), torch.nan))
    with pytest.raises(DataError, match="NaN or infinite"):
        playground.answer(State("single", TEXT, rank=1))
    assert same(before, bits(played.model))


def test_requests_of_several_threads_wait_for_each_other(playground):
    """Each gets the answer that it gets alone."""
    states = [State("single", TEXT, strength=strength, rank=rank) for strength in (0.0, 1.0, 2.0) for rank in (1, None)]
    alone, together = [playground.answer(state) for state in states], {}

    def ask(number):
        together[number] = playground.answer(states[number % len(states)])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(24)] == alone * 4


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (State("nowhere", TEXT), "there is no adapter 'nowhere'; expected single, several, number, pair"),
        (State("single", "  "), "the text: "),
        (State("single", TEXT, "second"), "found pairs, and the adapter was trained on single texts"),
        (State(PAIR, "the good house"), "found single texts, and the adapter was trained on pairs"),
        (State(PAIR, "the good house", ""), "the second text: "),
    ],
)
def test_wrong_states_are_errors_of_one_line(state, message, playground):
    with pytest.raises((ConfigError, DataError), match=message):
        playground.answer(state)


def test_row_beyond_the_text_is_the_last_one(playground):
    """The page keeps a row while the text becomes shorter."""
    shown = playground.answer(State("single", TEXT, row=1000))
    assert shown["row"] == len(shown["tokens"]) - 1


@pytest.mark.parametrize("settings", [{"variant": "dora"}, {"init": "pissa"}])
def test_rank_of_other_kinds_is_not_lowered(settings):
    """DoRA's change is no product of two factors; the factors of PiSSA depend on their start."""
    model = inject(tiny_distilbert(), LoRAConfig(rank=4, targets=["q_lin"], **settings), seed=0)
    assert "can't be lowered" in fixed_rank(model)
    with pytest.raises(ConfigError, match="can't be lowered"), keep_directions(model, 1):
        pass
    with keep_directions(model, None):
        pass
