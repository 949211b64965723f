"""A small trained adapter of every kind of task on the page."""

import pytest
from support.command_line import call, train_arguments
from support.folders import save_base, save_rows
from support.pictures import quick_pictures
from support.task_jobs import MULTI_LABEL, NUMBER, PAIR, save_bert_base, train_task

from lora_scratch.play.played import PlayedAdapter
from lora_scratch.play.playground import Playground
from lora_scratch.runs import open_adapter

SINGLE = "single"


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """An adapter folder of every task."""
    from lora_scratch.commands import train

    place = tmp_path_factory.mktemp("play")
    base, data = save_base(place / "base", labels=("negative", "positive")), save_rows(place / "data")
    bert = save_bert_base(place / "bert")
    with quick_pictures():
        assert call(train, *train_arguments(base, data, place / SINGLE), "--rank", 3) == 0  # lower than the others
        several = {kind: train_task(place / kind, bert, kind) for kind in (MULTI_LABEL, NUMBER, PAIR)}
    return {SINGLE: place / SINGLE / "adapter", **several}


@pytest.fixture(scope="session")
def playground(folders):
    """All of them on one page."""
    return Playground({name: PlayedAdapter(open_adapter(folder), {}) for name, folder in folders.items()})


@pytest.fixture(scope="session")
def texts():
    """A text for every adapter, with a second one for pairs."""
    return {SINGLE: ("i am so happy today", None), MULTI_LABEL: ("the red house is good", None)} | {
        NUMBER: ("a very good tree", None),
        PAIR: ("the good house", "good is a tree"),
    }
