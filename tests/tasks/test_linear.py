"""lora_scratch/tasks/linear.py: W and b are scikit-learn's, brought back to the features as they are."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lora_scratch.tasks.linear import PENALTIES, fit_softmax


def features(count=80, width=5, *, classes=3, seed=0):
    """Features with very different means and deviations, and labels that depend on them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=generator) * torch.tensor([1e-2, 1, 30, 5, 1]) + torch.tensor([3, -1, 0, 50, 0])
    z = (x - x.mean(0)) / x.std(0)
    noise = torch.randn(count, classes, generator=generator)
    return x, (z @ torch.randn(width, classes, generator=generator) + noise).argmax(-1)


@pytest.mark.parametrize("classes", [2, 3])
def test_softmax_is_that_of_scikit_learns_pipeline(classes):
    """Scaling and two-class scores included: 1e-4 for one of the penalties."""
    x, labels = features(classes=classes)
    _, found = fit_softmax([x], labels, classes=classes)
    pipelines = [
        make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=1000)).fit(x.numpy(), labels.numpy())
        for penalty in PENALTIES
    ]
    expected = [torch.as_tensor(each.predict_log_proba(x.numpy())).float() for each in pipelines]
    assert min(float((found(x).log_softmax(-1) - each).abs().max()) for each in expected) < 1e-4


def test_of_several_kinds_of_features_the_telling_one_is_taken():
    """The other is noise."""
    x, labels = features(400)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    assert fit_softmax([noise, x], labels, classes=3)[0] == 1
    assert fit_softmax([x, noise], labels, classes=3)[0] == 0


def test_exponentials_have_a_geometric_mean_sum_of_one_over_the_rows():
    """So the bias -log n of a class without rows makes it about as likely as one row among n."""
    x, labels = features(classes=3)
    _, found = fit_softmax([x], labels, classes=4)
    scores = x @ found.weight.T + found.bias
    assert float(scores[:, :3].logsumexp(-1).mean()) == pytest.approx(0, abs=1e-4)
    assert found.bias[3] == pytest.approx(-torch.tensor(float(len(x))).log())
    assert not found.weight[3].any()
    assert found(x).log_softmax(-1)[:, 3].mean() == pytest.approx(float(torch.tensor(1 / 81).log()), abs=0.1)


def test_one_class_alone_is_predicted_whatever_the_features():
    """There is nothing to fit."""
    x, _ = features(30)
    _, found = fit_softmax([x], torch.full((30,), 2), classes=4)
    assert found(x).argmax(-1).eq(2).all()
