"""lora_scratch/training/objective.py: weighted losses do not depend on how a step is split; the best by any score."""

import warnings
from dataclasses import replace

import pytest
import torch
from support.tiny import tiny_distilbert, tiny_rows

from lora_scratch.adapter import LoRAConfig, inject
from lora_scratch.data import collate
from lora_scratch.errors import ConfigError
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, make_task
from lora_scratch.training import MetricsLog, TrainingConfig, train
from lora_scratch.training.objective import check_best_by, quality, training_task
from lora_scratch.training.step import Stepper

QUIET = {"pad_token_id": 0, "show_progress": False}
TASKS = {SINGLE_LABEL: "abc", MULTI_LABEL: "abc", REGRESSION: "a"}
WEIGHTS = '{"a": 5, "c": 0.5}'


def config(**settings):
    usual = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32", "device": "cpu"}
    return TrainingConfig(**{**usual, **settings})


def labels(name, n=48):
    generator = torch.Generator().manual_seed(3)
    if name == REGRESSION:
        return torch.randn(n, generator=generator)
    if name == MULTI_LABEL:
        return (torch.rand(n, 3, generator=generator) < 0.4).float()
    return torch.randint(0, 3, (n,), generator=generator)


def first_step(name, sizes, settings, *, pieces=1):
    """The loss of a step and its gradients."""
    model = inject(tiny_distilbert(labels=len(TASKS[name])), LoRAConfig(rank=4, alpha=8, dropout=0))
    rows = replace(tiny_rows(), labels=labels(name))
    task = training_task(make_task(name, TASKS[name]), settings, rows.labels)
    precision = resolve_precision("fp32", torch.device("cpu"))
    stepper = Stepper(model, settings, task=task, precision=precision, total_steps=10)
    stepper.pieces, gradients, starts = pieces, [], [sum(sizes[:i]) for i in range(len(sizes))]
    stepper.optimizer.register_step_pre_hook(lambda *_: gradients.extend(p.grad.clone() for p in stepper.parameters))
    places = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    report = stepper([collate(rows, rows_of_batch, pad_token_id=0) for rows_of_batch in places])
    return report.loss, torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (SINGLE_LABEL, {"class_weights": WEIGHTS, "label_smoothing": 0.2}),
        (SINGLE_LABEL, {"class_weights": "balanced"}),
        (MULTI_LABEL, {"class_weights": WEIGHTS, "label_smoothing": 0.2}),
        (REGRESSION, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize(("sizes", "pieces"), [((7, 4, 1), 1), ((12,), 4), ((8, 4), 2)])
def test_a_weighted_step_is_the_same_however_its_rows_are_split(name, settings, sizes, pieces):
    """Σ w l / n over all rows: in one batch, in uneven micro-batches, and in pieces after a lack of memory."""
    loss, gradients = first_step(name, (12,), config(clip_norm=0, **settings))
    other_loss, other_gradients = first_step(name, sizes, config(clip_norm=0, **settings), pieces=pieces)
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert (other_gradients - gradients).abs().max() <= 1e-5 * gradients.abs().max()


def test_the_loss_of_a_step_is_the_weighted_sum_over_the_number_of_rows():
    """Computed row by row; a mean over the sum of the weights, as torch's reduction has it, would be another number."""
    settings = config(class_weights=WEIGHTS)
    model = inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=8, dropout=0))
    batch = collate(replace(tiny_rows(), labels=labels(SINGLE_LABEL)), list(range(12)), pad_token_id=0)
    with torch.no_grad():
        logits = model(**batch.inputs).logits
    weights = torch.tensor([5.0, 1.0, 0.5])[batch.labels]
    losses = -logits.log_softmax(-1).gather(1, batch.labels[:, None])[:, 0]
    assert first_step(SINGLE_LABEL, (12,), settings)[0] == pytest.approx(float((weights * losses).sum() / 12), rel=1e-5)


def test_train_uses_the_weights_of_its_settings():
    """A training through the library is weighted as one through the command."""
    ends = []
    for weights in (None, WEIGHTS):
        model = inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=8))
        task = make_task(SINGLE_LABEL, "abc")
        train(model, tiny_rows(), tiny_rows(seed=1), config(class_weights=weights), task=task, **QUIET)
        ends.append(model.classifier.weight.detach().clone())
    assert not torch.equal(*ends)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": '{"d": 2}'}, "--class_weights: there is no label 'd'; expected a, b, c"),
        ({"class_weights": '{"a": 0}'}, "--class_weights: found .*; expected numbers from 1e-6 to 1e6"),
        ({"class_weights": '{"a": 1e-300}'}, "--class_weights: found .*; expected numbers from 1e-6 to 1e6"),
        ({"best_by": "f1"}, "--best_by: there is no score 'f1'; expected one of accuracy, macro_f1, matthews, loss"),
    ],
    ids=str,
)
def test_what_the_task_does_not_have_is_refused_before_the_training(settings, message):
    """With what there is."""
    model = inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=8))
    task = make_task(SINGLE_LABEL, "abc")
    with pytest.raises(ConfigError, match=message):
        train(model, tiny_rows(), tiny_rows(), config(**settings), task=task, **QUIET)


@pytest.mark.parametrize("settings", [{"class_weights": "balanced"}, {"class_weights": WEIGHTS}, {"label_smoothing": 0.1}])
def test_a_number_has_no_classes_to_weigh(settings):
    """Ignoring the flag would be a wrong answer without a word."""
    with pytest.raises(ConfigError, match=f"--{next(iter(settings))}: numbers have no classes"):
        training_task(make_task(REGRESSION, "a"), config(**settings), labels(REGRESSION))


@pytest.mark.parametrize("text", ["balance", "[1, 2]", "{", "3"])
def test_weights_that_are_neither_balanced_nor_json_are_refused(text):
    """When the settings are made."""
    with pytest.raises(ConfigError, match=r"--class_weights: found .*; expected balanced, or JSON"):
        config(class_weights=text)


@pytest.mark.parametrize(("name", "score"), [(SINGLE_LABEL, "macro_f1"), (MULTI_LABEL, "micro_f1"), (REGRESSION, "mae")])
def test_every_task_is_judged_by_its_own_scores(name, score):
    """A score of the task passes; of equal scores the lower loss is better."""
    task, truth = make_task(name, TASKS[name]), labels(name)
    check_best_by(score, task, truth)
    noise = torch.randn(48, len(TASKS[name]), generator=torch.Generator().manual_seed(0))
    worse, better = (task.measure(factor * noise, truth) for factor in (9.0, 0.1))
    assert quality(better, "loss") > quality(worse, "loss")
    assert quality(better, score)[1] > quality(worse, score)[1]


def run(**settings):
    """A training that gets worse: the rows it is validated on have other labels."""
    log, validation = MetricsLog(), replace(tiny_rows(16, seed=1), labels=tiny_rows(16, seed=5).labels)
    model = inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=8))
    usual = {"learning_rate": 3e-2, "epochs": 6, "best_by": "loss"}
    result = train(model, tiny_rows(), validation, config(**{**usual, **settings}), log=log, **QUIET)
    return result, [event for event in log.events if event["event"] == "validation"]


def test_the_best_by_loss_has_the_lowest_loss():
    """A score of which less is better."""
    result, validations = run()
    assert result.best.loss == min(event["loss"] for event in validations)
    assert result.best.loss < validations[-1]["loss"]


def test_patience_stops_and_says_that_the_schedule_is_cut():
    """After so many validations without a new best; what the learning rate was is part of the sentence."""
    _, everything = run()
    best = min(range(6), key=lambda number: everything[number]["loss"])
    with pytest.warns(UserWarning, match=r"no better loss in 2 validations. The schedule was cut: .* at \d+% of its peak"):
        result, validations = run(patience=2)
    assert [event["loss"] for event in validations] == [event["loss"] for event in everything[: best + 3]]
    assert result.steps == 6 * len(validations)


def test_a_training_that_ends_by_itself_says_nothing_of_a_stop():
    """The last validation may be one too many; the schedule was not cut."""
    _, everything = run()
    best = min(range(6), key=lambda number: everything[number]["loss"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(patience=6 - 1 - best, epochs=6)


def test_validation_every_so_many_steps_takes_the_place_of_the_epochs():
    """36 steps: at every multiple of 10, and after the last one."""
    _, validations = run(evaluate_every=10)
    assert [event["step"] for event in validations] == [10, 20, 30, 36]
    assert [event["epoch"] for event in validations] == [2, 4, 5, 6]
