"""lora_scratch/training/dynamics.py: the figures are those of the dense formula, and looking changes no bit."""

import copy

import pytest
import torch
from support.dispatched import dispatched
from support.tiny import tiny_distilbert, tiny_rows
from torch import nn

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject
from lora_scratch.data import collate
from lora_scratch.layers import LoRALinear
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.tasks import task_of
from lora_scratch.training import MetricsLog, TrainingConfig, dynamics, train
from lora_scratch.training.dynamics import FIGURES, LAYERS_AT_ONCE, Dynamics, delta_weight_norms
from lora_scratch.training.step import Stepper

VARIANTS = [{}, {"variant": "dora"}, {"init": "pissa"}, {"rslora": True}]


def adapted(**settings):
    model = inject(tiny_distilbert(), LoRAConfig(**{"rank": 4, "alpha": 6, "dropout": 0.0, **settings}))
    generator = torch.Generator().manual_seed(0)
    for layer in adapter_layers(model).values():  # off its start, where every B is zero
        layer.lora_B.data += 0.1 * torch.randn(layer.lora_B.shape, generator=generator)
    return model


def stepper(model, **settings):
    settings = TrainingConfig(learning_rate=1e-2, warmup_ratio=0, precision="fp32", **settings)
    fp32 = resolve_precision("fp32", torch.device("cpu"))
    return Stepper(model, settings, task=task_of(model), precision=fp32, total_steps=20)


def batch():
    return [collate(tiny_rows(), range(8), pad_token_id=0)]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_delta_weight_norm_is_that_of_the_dense_product(settings):
    """scaling · ‖B A‖; for pissa of the difference to the start, whose factors are stored in float32."""
    start = inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=6, **settings))
    layers = adapter_layers(adapted(**settings))
    norms = dict(zip(layers, delta_weight_norms([*layers.values()]).tolist(), strict=True))
    for name, layer in layers.items():
        dense = layer.scaling * (layer.lora_B.detach().double() @ layer.lora_A.detach().double())
        if settings == {"init": "pissa"}:
            first = start.get_submodule(name)
            dense -= first.scaling * (first.lora_B.detach().double() @ first.lora_A.detach().double())
        assert norms[name] == pytest.approx(float(dense.norm()), rel=1e-7 if "init" in settings else 1e-12)


def test_delta_weight_norm_of_two_by_two_is_the_one_worked_by_hand():
    """B = (3, 4)ᵀ, A = (1, 2), scaling 1.5: ‖B A‖ = 5 · √5, so 1.5 · 5 · √5."""
    layer = next(iter(adapter_layers(adapted(rank=4, alpha=6)).values()))
    for factor in (layer.lora_A, layer.lora_B):
        factor.data.zero_()
    layer.lora_A.data[0, :2] = torch.tensor([1.0, 2.0])
    layer.lora_B.data[:2, 0] = torch.tensor([3.0, 4.0])
    assert delta_weight_norms([layer]).tolist() == pytest.approx([7.5 * 5**0.5], rel=1e-12)


@pytest.mark.parametrize("count", [1, LAYERS_AT_ONCE, LAYERS_AT_ONCE + 3])
def test_delta_weight_norms_come_in_the_order_of_the_layers(count):
    """Layers of one shape are computed together, more than a few of them in parts; a scaling is each layer's own."""
    generator = torch.Generator().manual_seed(0)
    layers = []
    for number in range(count):
        sizes = [(6, 9), (9, 6)][number % 2]
        layer = LoRALinear(nn.Linear(*sizes), rank=2 + number % 3, alpha=1 + number % 4, generator=generator)
        torch.nn.init.normal_(layer.lora_B, generator=generator)
        layers.append(layer)
    products = [layer.scaling * layer.lora_B.detach().double() @ layer.lora_A.detach().double() for layer in layers]
    expected = [float(product.norm()) for product in products]
    assert delta_weight_norms(layers).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("clip_norm", [0.0, 1e-3])
def test_dynamics_are_the_norms_of_gradient_and_movement(clip_norm):
    """‖∂L/∂A‖ as the optimizer gets it, ‖A_t − A_{t−1}‖ / ‖A_t‖, and the same of B, for every module."""
    model = adapted()
    one, twin = stepper(model, clip_norm=clip_norm), copy.deepcopy(model)
    watched = Dynamics(model, one)
    one(batch())
    found = watched.read()[1]["modules"]
    other = stepper(twin, clip_norm=clip_norm)
    gradients = {}
    other.optimizer.register_step_pre_hook(
        lambda *_: gradients.update({p: p.grad.clone() for group in other.optimizer.param_groups for p in group["params"]})
    )
    before = {name: (layer.lora_A.clone(), layer.lora_B.clone()) for name, layer in adapter_layers(twin).items()}
    other(batch())
    assert found.keys() == before.keys()
    for name, layer in adapter_layers(twin).items():
        assert tuple(found[name]) == FIGURES
        for old, new, letter in zip(before[name], (layer.lora_A, layer.lora_B), "AB", strict=True):
            assert found[name][f"gradient_{letter}"] == pytest.approx(gradients[new].norm().item(), rel=1e-5)
            assert found[name][f"update_{letter}"] == pytest.approx(((new - old).norm() / new.norm()).item(), rel=1e-5)
        assert found[name]["delta_weight"] == pytest.approx(delta_weight_norms([layer]).item(), rel=1e-12)


def test_dynamics_are_read_once_and_not_of_a_skipped_step():
    """A step with a gradient that is not finite moves nothing, and says nothing."""
    model = adapted()
    one = stepper(model)
    watched = Dynamics(model, one)
    one(batch())
    assert [*watched.read()] == [1]
    assert watched.read() == {}
    model.get_parameter("classifier.weight").data.fill_(torch.nan)
    one.step = 9  # the next is the tenth
    assert one(batch()).skipped
    assert watched.read() == {}


def test_dynamics_of_several_steps_are_read_together(monkeypatch):
    """They are those of one read after each step, and a skipped step between them leaves the others alone."""
    monkeypatch.setattr(dynamics, "MIN_INTERVAL", 1)
    read = []
    for late in (False, True):
        model = adapted()
        one = stepper(model)
        watched, figures = Dynamics(model, one), {}
        for step in range(4):
            model.classifier.bias.data[0] = torch.nan if step == 2 else 0.1
            one(batch())
            figures |= {} if late else watched.read()
        read.append(watched.read() if late else figures)
    assert read[0] == read[1]
    assert [*read[1]] == [1, 2, 4]


def test_a_module_without_a_gradient_has_a_gradient_of_zero():
    """As when it takes no part in the forward pass: it has not moved, unless by weight decay."""
    model = adapted()
    name, layer = next(iter(adapter_layers(model).items()))
    one = stepper(model, weight_decay=0.0)
    watched = Dynamics(model, one)
    layer.enabled = False
    one(batch())
    figures = watched.read()[1]["modules"][name]
    assert [figures[key] for key in FIGURES[:4]] == [0, 0, 0, 0]


def test_a_measurement_waits_for_nothing_and_costs_as_much_for_many_modules():
    """The operators beside those of the step itself, for six modules and for twelve; nothing is read before `read`."""
    extra = []
    for layers in (2, 4):
        work = {}
        for watch in (False, True):
            model = inject(tiny_distilbert(layers=layers), LoRAConfig(rank=4, alpha=6, dropout=0.0))
            one = stepper(model)
            watched = Dynamics(model, one) if watch else None
            with dispatched() as operators:
                one.launch(batch())
            work[watch] = operators
            if watched:
                assert len(watched.read()[1]["modules"]) == 3 * layers
        waits = [[name for name in each.names if name in ("_local_scalar_dense", "item", "equal")] for each in work.values()]
        assert waits[0] == waits[1]
        extra.append(len(work[True].kernels) - len(work[False].kernels))
    assert extra[0] == extra[1] <= 30


@pytest.mark.parametrize(("total", "measured"), [(4, [1, 4]), (25, [1, 10, 20, 25]), (2400, [1, *range(24, 2401, 24)])])
def test_dynamics_are_measured_at_first_last_and_evenly_between(total, measured):
    """Every tenth step, of a long run about a hundred."""
    one = stepper(adapted())
    one.total_steps = total
    watched, due = Dynamics(one.model, one), []
    for one.step in range(total):
        due += [one.step + 1] if watched._due() else []
    assert due == measured


def test_training_ends_in_the_same_bits_without_dynamics(monkeypatch):
    """Looking changes nothing: every trained tensor and every other figure of the log."""
    ends = []
    for interval in (1, 10**9):
        monkeypatch.setattr(dynamics, "MIN_INTERVAL", interval)
        monkeypatch.setattr(Dynamics, "_due", Dynamics._due if interval == 1 else lambda _: False)
        model, log = adapted(dropout=0.1), MetricsLog()
        settings = TrainingConfig(epochs=2, batch_size=8, learning_rate=1e-2, precision="fp32", device="cpu")
        train(model, tiny_rows(24), tiny_rows(8), settings, pad_token_id=0, log=log, show_progress=False)
        ends.append((model, log.events))
    (one, watched), (other, plain) = ends
    assert all(torch.equal(p, other.get_parameter(name)) for name, p in one.named_parameters())
    assert sum("modules" in event for event in watched) == 6
    assert not any("modules" in event for event in plain)
    assert [event["loss"] for event in watched] == [event["loss"] for event in plain]


def test_metrics_log_names_what_is_not_finite_inside_a_module_too():
    """JSON has no NaN, however deep it stands."""
    log = MetricsLog()
    log.write(event="step", modules={"a": {"update_A": float("nan"), "update_B": 1.0}})
    assert log.events[0]["modules"] == {"a": {"update_A": "nan", "update_B": 1.0}}
