"""Laws of lora_scratch/data/hub.py. The hub itself is never asked: its client and `load_dataset` are replaced."""

import datasets
import datasets.config
import huggingface_hub
import huggingface_hub.constants
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from huggingface_hub.errors import HFValidationError

from lora_scratch.data import load_splits
from lora_scratch.errors import DataError

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["sadness", "joy"])})


def rows(*pairs: tuple[str, int]) -> Dataset:
    return Dataset.from_dict(
        {"text": [text for text, _ in pairs], "label": [label for _, label in pairs]}, features=FEATURES
    )


def hub_answers(monkeypatch: pytest.MonkeyPatch, answer: Exception | None) -> None:
    """The hub knows the data set, or its client raises `answer`."""

    def dataset_info(self: object, name: str, **options: object) -> None:
        if answer is not None:
            raise answer

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["default"])


def hub_holds(monkeypatch: pytest.MonkeyPatch, **splits: Dataset) -> None:
    hub_answers(monkeypatch, None)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, *configuration: DatasetDict(splits))


def test_hub_data_set_keeps_its_splits_and_class_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ClassLabel feature keeps names and order; the splits are the hub's."""
    train = rows(("a", 1), ("b", 0))
    hub_holds(monkeypatch, train=train, validation=rows(("c", 1)), test=rows(("d", 0)))
    splits = load_splits("owner/name")
    assert splits.labels == ("sadness", "joy")
    assert [row.label for row in splits.train] == [1, 0]
    assert (splits.validation[0].text, splits.test[0].text, splits.source) == ("c", "d", "owner/name")


def test_hub_data_set_without_validation_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a folder: a tenth of the training rows."""
    hub_holds(monkeypatch, train=rows(*[(f"t{i}", i % 2) for i in range(40)]), test=rows(("d", 0)))
    splits = load_splits("owner/name")
    assert (len(splits.train), len(splits.validation)) == (36, 4)


def test_hub_data_set_without_train_or_column_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message lists the splits or columns of the data set."""
    hub_holds(monkeypatch, test=rows(("a", 0), ("b", 1)), validation=rows(("c", 0)))
    with pytest.raises(DataError, match="owner/name: no train split among 'test', 'validation'"):
        load_splits("owner/name")
    hub_holds(monkeypatch, train=rows(("a", 0), ("b", 1)), validation=rows(("c", 0)))
    with pytest.raises(DataError, match=r"owner/name/train: no column 'sentence' among 'text', 'label'; .* --text_column"):
        load_splits("owner/name", text_column="sentence")


def test_hub_row_without_label_names_split_and_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden labels of a benchmark's test split are -1: that is no label."""
    hub_holds(monkeypatch, train=rows(("a", 0), ("b", 1)), validation=rows(("c", 0)), test=rows(("d", 0), ("e", -1)))
    with pytest.raises(DataError, match="owner/name/test:2: the label is -1; expected 0 to 1: 'sadness', 'joy'"):
        load_splits("owner/name")


def test_unknown_name_is_neither_local_nor_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that the hub refuses is most often a mistyped path."""
    hub_answers(monkeypatch, HFValidationError("bad name"))
    with pytest.raises(DataError, match="nosuch: neither a local file or folder nor a public data set of the hub"):
        load_splits("nosuch")


def test_unreachable_hub_is_one_line_and_leaves_the_offline_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hub and cache: what could not be reached, what to pass instead; the libraries do not stay offline."""
    hub_answers(monkeypatch, OSError("name resolution failed\nmore"))
    before = (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)
    with pytest.raises(
        DataError, match=r"^no-one/nothing: .*hub could not be reached \(name resolution failed\).*--dataset PATH$"
    ):
        load_splits("no-one/nothing")
    assert before == (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)


def test_cached_copy_is_used_when_the_hub_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` is asked for its cached copy with both libraries switched offline."""

    def cached(name: str) -> DatasetDict:
        assert datasets.config.HF_HUB_OFFLINE
        assert huggingface_hub.constants.HF_HUB_OFFLINE
        return DatasetDict(train=rows(("a", 1), ("b", 0)), validation=rows(("c", 1)), test=rows(("d", 0)))

    hub_answers(monkeypatch, TimeoutError())
    monkeypatch.setattr(datasets, "load_dataset", cached)
    assert load_splits("owner/name").labels == ("sadness", "joy")


def test_data_set_that_does_not_load_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever `datasets` raises (a loading script, a missing configuration) becomes a DataError with its first line."""

    def refuse(name: str) -> DatasetDict:
        raise RuntimeError("Dataset scripts are no longer supported\nmore")

    hub_answers(monkeypatch, None)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"could not be loaded \(Dataset scripts are no longer supported\)"):
        load_splits("owner/name")


def test_configuration_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """`owner/name:part`; a name that has several parts, or no such one, is an error that lists them."""
    parts = {"mrpc": DatasetDict(train=rows(("a", 1), ("b", 0)), validation=rows(("c", 1)), test=rows(("d", 0)))}

    def load(name: str, part: str = "") -> DatasetDict:
        if part not in parts:
            raise ValueError("Config name is missing.\nmore")
        return parts[part]

    hub_answers(monkeypatch, None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["mrpc", "sst2"])
    assert load_splits("owner/name:mrpc").source == "owner/name:mrpc"
    with pytest.raises(
        DataError, match="owner/name: it has several configurations; expected one of 'mrpc', 'sst2'; pass own"
    ):
        load_splits("owner/name")
    with pytest.raises(DataError, match="no configuration 'mrcp'; expected one of 'mrpc', 'sst2'; pass owner/name:mrpc"):
        load_splits("owner/name:mrcp")


def test_hidden_labels_of_the_hub_make_validation_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """GLUE's test labels are -1, and MNLI's validation rows are of two kinds, which count together."""
    train = rows(*[(f"t{i}", i % 2) for i in range(40)])
    others = {"validation_matched": rows(("c", 1)), "validation_mismatched": rows(("e", 1))}
    hub_holds(monkeypatch, train=train, **others, test_matched=rows(("d", -1), ("f", -1)))
    splits = load_splits("owner/name")
    assert (len(splits.train), len(splits.validation), [row.text for row in splits.test]) == (36, 4, ["c", "e"])
    assert splits.labels == ("sadness", "joy")
    assert splits.notes == (
        "the validation rows are those of validation_matched and validation_mismatched",
        "the test rows have no labels: the 2 validation rows are the test, and 4 rows held out of train the validation",
    )


def test_lists_of_classes_and_second_texts_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are those of the feature within the list; a split without a column of labels has none."""
    features = Features({"text": Value("string"), "other": Value("string"), "label": List(ClassLabel(names=["z", "a"]))})
    content = {"text": ["t"] * 20, "other": ["these are several words"] * 20, "label": [[i % 2] for i in range(20)]}
    train = Dataset.from_dict(content, features=features)
    hub_holds(monkeypatch, train=train, validation=train, test=train.remove_columns("label"))
    splits = load_splits("owner/name")
    assert (splits.task, splits.labels, splits.test[1].label) == ("multi_label", ("z", "a"), (1,))
    assert "column 'other' is not used; --pair_column other makes pairs" in splits.notes
    assert load_splits("owner/name", pair_column="other").test[0].pair == "these are several words"
