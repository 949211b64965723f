from itertools import product

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from support.tiny import tiny_distilbert, tiny_rows
from support.tiny_models import tiny_model

from lora_scratch.data import Encoded, collate
from lora_scratch.errors import DataError
from lora_scratch.evaluation import Predictor, linear_probe
from lora_scratch.evaluation.probe import frozen_features
from lora_scratch.runtime.precision import Precision
from lora_scratch.tasks import measure
from lora_scratch.tasks.linear import PENALTIES

FP32 = Precision(torch.float32, torch.device("cpu"))


def probe(model, train, test):
    return linear_probe(Predictor(model, FP32, 0, batch_tokens=50), train, test)


def relabelled(rows: Encoded, labels) -> Encoded:
    return Encoded(rows.tokens, rows.offsets, torch.as_tensor(labels), rows.truncated, rows.max_tokens)


def first_token(hidden):
    return hidden[:, 0]


def mean_of_tokens(hidden):
    return hidden.mean(1)


def features(model, rows, pooling=first_token):
    """The last hidden state of every row, pooled, each row alone."""
    alone = [collate(rows, [row], pad_token_id=0) for row in range(len(rows))]
    with torch.no_grad():
        return torch.cat([pooling(model.distilbert(b.input_ids, b.attention_mask).last_hidden_state) for b in alone])


@pytest.mark.parametrize("labels", [2, 3])
def test_linear_probe_is_a_logistic_regression_of_pooled_features(labels):
    """scikit-learn's log-probabilities for one pooling and one C, on features computed row by row, standardized by hand."""
    model, train, test = tiny_distilbert(labels=labels), tiny_rows(60, labels=labels), tiny_rows(17, labels=labels, seed=1)
    found = probe(model, train, test)
    differences = []
    for pooling, penalty in product((first_token, mean_of_tokens), PENALTIES):
        x, x_test = features(model, train, pooling), features(model, test, pooling)
        mean, deviation = x.mean(0), x.std(0, correction=0)
        regression = LogisticRegression(C=penalty, max_iter=1000)
        fitted = regression.fit(((x - mean) / deviation).numpy(), train.labels.numpy())
        expected = torch.as_tensor(fitted.predict_log_proba(((x_test - mean) / deviation).numpy()))
        differences.append(float((found.log_softmax(-1) - expected).abs().max()))
    assert min(differences) < 1e-3  # both stop where the gradient is small, not where it is 0


@pytest.mark.parametrize("pooling", [first_token, mean_of_tokens])
def test_linear_probe_finds_what_the_features_hold(pooling):
    """Labels that are a linear function of the frozen features, of either pooling, are learnt; labels by lot are not."""
    model, train, test = tiny_distilbert(labels=2), tiny_rows(300, labels=2), tiny_rows(100, labels=2, seed=1)
    direction = torch.randn(32)
    scores = [features(model, rows, pooling) @ direction for rows in (train, test)]
    train, test = (
        relabelled(rows, (each > scores[0].median()).long()) for rows, each in zip((train, test), scores, strict=True)
    )
    assert measure(probe(model, train, test), test.labels).accuracy > 0.9
    by_lot = relabelled(train, torch.randint(2, (300,)))
    assert measure(probe(model, by_lot, test), test.labels).accuracy < 0.75


def test_linear_probe_gives_the_same_twice_and_leaves_the_model_alone():
    """No random numbers, no weight changed, the mode restored."""
    model, rows = tiny_distilbert(dropout=0.3).train(), tiny_rows(30)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert torch.equal(probe(model, rows, rows), probe(model, rows, rows))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_linear_probe_gives_logits_of_all_labels_when_training_rows_lack_one():
    """The missing class has a small probability: about that of one row more, 1 / (rows + 1)."""
    model, rows = tiny_distilbert(labels=3), tiny_rows(40)
    lacking = relabelled(rows, torch.where(rows.labels == 1, 2, rows.labels))
    probabilities = probe(model, lacking, rows).softmax(-1)
    assert probabilities.shape == (40, 3)
    torch.testing.assert_close(probabilities[:, 1].log().mean(), torch.tensor(1 / 41).log(), rtol=0, atol=0.05)
    assert measure(probabilities.log(), rows.labels).n == 40


def test_linear_probe_of_one_class_predicts_that_class():
    """There is nothing to tell apart, and nothing to fit."""
    rows = tiny_rows(6)
    found = probe(tiny_distilbert(), relabelled(rows, torch.ones(6, dtype=torch.int64)), rows)
    assert found.argmax(-1).tolist() == [1] * 6
    assert found.isfinite().all()


def test_linear_probe_holds_back_where_the_features_say_nothing():
    """The penalty is chosen on rows set aside: on labels drawn by lot the loss stays near log 2, where C = 1 gives 1.1."""
    model, rows, test = tiny_distilbert(labels=2), tiny_rows(60, labels=2), tiny_rows(200, labels=2, seed=1)
    by_lot, test_by_lot = (relabelled(each, torch.randint(2, (len(each),))) for each in (rows, test))
    assert measure(probe(model, by_lot, test_by_lot), test_by_lot.labels).loss < 0.75


def test_linear_probe_refuses_features_that_are_not_finite():
    """scikit-learn's own error would be a page that names no remedy."""
    model = tiny_distilbert()
    model.distilbert.embeddings.word_embeddings.weight.data.fill_(torch.nan)
    with pytest.raises(DataError, match="features that are not finite"):
        probe(model, tiny_rows(6), tiny_rows(6))


@pytest.mark.parametrize(("family", "place"), [("bert", 0), ("gpt2", -1), ("xlnet", -1)])
def test_features_are_read_where_the_head_of_the_family_reads(family, place):
    """The first token of a decoder has seen nothing of the text; padding is never read."""
    model, rows = tiny_model(family), tiny_rows(8)
    first, mean = frozen_features(Predictor(model, FP32, 0), rows)
    for row in range(len(rows)):
        tokens = rows.tokens[rows.offsets[row] : rows.offsets[row + 1]].long()[None]
        with torch.no_grad():
            hidden = model.base_model(input_ids=tokens, attention_mask=torch.ones_like(tokens))[0][0]
        torch.testing.assert_close(first[row], hidden[place], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mean[row], hidden.mean(0), rtol=1e-4, atol=1e-5)
