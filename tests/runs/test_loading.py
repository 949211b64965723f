"""Laws of lora_scratch/runs/loading.py: rows with the label numbers of an adapter."""

from types import SimpleNamespace

import pytest

from lora_scratch.data import Example, Splits
from lora_scratch.errors import DataError
from lora_scratch.runs import DataOptions, fitting_rows, open_splits, relabel


def splits_of(*labels: object, names: tuple[str, ...] = ("a", "b"), task: str = "single_label") -> Splits:
    rows = tuple(Example("one", label, "two") for label in labels)
    return Splits(rows, rows, rows, labels=names, source="rows.csv", task=task)


@pytest.mark.parametrize(
    ("task", "labels", "expected"),
    [("single_label", (0, 1), [2, 0]), ("multi_label", ((0, 1), (), (1,)), [(0, 2), (), (0,)])],
)
def test_labels_get_the_numbers_of_the_adapter(task: str, labels: tuple[object, ...], expected: list[object]) -> None:
    """Of every split; second texts stay, and several labels stay in order."""
    renumbered = relabel(splits_of(*labels, task=task), ("b", "c", "a"))
    for rows in (renumbered.train, renumbered.validation, renumbered.test):
        assert [row.label for row in rows] == expected
        assert {row.pair for row in rows} == {"two"}
    assert renumbered.labels == ("b", "c", "a")


def test_numbers_stay_whatever_their_column_is_called() -> None:
    """The one name of a regression is that of its column."""
    splits = relabel(splits_of(2.5, -1.0, names=("rating",), task="regression"), ("score",))
    assert [row.label for row in splits.test] == [2.5, -1.0]
    assert splits.labels == ("score",)


def test_label_that_the_adapter_lacks_is_refused() -> None:
    """Its number would be that of another."""
    with pytest.raises(DataError, match=r"rows\.csv: the adapter knows no label 'a'; expected labels b, c"):
        relabel(splits_of(0), ("b", "c"))


def test_options_of_pairs_and_task_reach_the_rows(tmp_path) -> None:
    """The columns, the task, and the limits."""
    path = tmp_path / "rows.csv"
    path.write_text("one,two,score\n" + "".join(f"a {i},b {i},{i}\n" for i in range(30)))
    options = DataOptions(
        dataset=str(path),
        text_column="one",
        pair_column="two",
        label_column="score",
        task="regression",
        limit_train=5,
        limit_eval=2,
    )
    splits = open_splits(options)
    assert (splits.task, splits.labels) == ("regression", ("score",))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (5, 2, 2)
    row = splits.train[0]
    assert isinstance(row.label, float)
    assert row.pair == f"b {int(row.label)}"


def test_the_default_length_is_at_most_what_the_model_reads():
    """A length that was typed is refused if it is too long; the default is not typed."""
    base = SimpleNamespace(tokenizer=SimpleNamespace(model_max_length=64))
    assert fitting_rows(DataOptions(), base).max_tokens == 64
    assert fitting_rows(DataOptions(max_tokens=100), base).max_tokens == 100
    assert fitting_rows(DataOptions(max_tokens=32), base).max_tokens == 32
