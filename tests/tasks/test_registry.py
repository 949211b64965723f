"""lora_scratch/tasks/registry.py: the task of a model and of a name."""

from types import SimpleNamespace

import pytest

from lora_scratch.errors import ConfigError
from lora_scratch.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, make_task, task_of


def model(problem_type, *labels):
    config = {"problem_type": problem_type, "id2label": dict(enumerate(labels)), "num_labels": len(labels)}
    return SimpleNamespace(config=SimpleNamespace(**config))


@pytest.mark.parametrize(
    ("problem_type", "labels", "name"),
    [
        ("single_label_classification", ("a", "b"), SINGLE_LABEL),
        ("multi_label_classification", ("a", "b"), MULTI_LABEL),
        ("regression", ("score",), REGRESSION),
        (None, ("a", "b"), SINGLE_LABEL),
        (None, ("score",), REGRESSION),
    ],
)
def test_the_task_of_a_model_is_that_of_its_config(problem_type, labels, name):
    """Without a problem type the number of outputs decides, as in transformers."""
    task = task_of(model(problem_type, *labels))
    assert (task.name, task.labels) == (name, labels)
    assert problem_type in (None, task.problem_type)


def test_a_task_that_there_is_not_is_refused():
    """The error names those that there are."""
    with pytest.raises(ConfigError, match="--task: found 'ranking'; expected single_label or multi_label or regression"):
        make_task("ranking", ("a",))
