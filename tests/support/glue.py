"""Tiny files in the layouts of GLUE's archive, with sentences made up here."""

from pathlib import Path

QUOTED = '"so be it" she said, and "left'  # quotes are characters of GLUE's texts
PAIR = ("first {} of several words", f"second {{}} {QUOTED}")


def cola(split: str, n: int) -> str:
    """Without a header, but for the test file."""
    sentences = [f'He said " number {i}.' for i in range(n)]
    if split == "test":
        return lines("index\tsentence", *(f"{i}\t{sentence}" for i, sentence in enumerate(sentences)))
    return lines(*(f"gj04\t{i % 2}\t{'' if i % 2 else '*'}\t{sentence}" for i, sentence in enumerate(sentences)))


def table(header: str, label: str, labels: list[str]) -> "Layout":
    return Layout(header.split(), label, labels)


class Layout:
    """The columns of a task's files; the test file has all but those of labels."""

    def __init__(self, header: list[str], label: str, labels: list[str]) -> None:
        self.header, self.label, self.labels = header, label, labels

    def file(self, split: str, n: int) -> str:
        """The content of a file with `n` rows."""
        hidden = [self.label, "label1"] if split.startswith("test") else []
        names = [name for name in self.header if name not in hidden]
        names = ["index", *names] if split.startswith("test") and names[0] != "index" else names
        return lines("\t".join(names), *("\t".join(self.cell(name, i) for name in names) for i in range(n)))

    def cell(self, name: str, i: int) -> str:
        """What stands in a column of row `i`."""
        if name == self.label:
            return self.labels[i % len(self.labels)]
        if name in ("sentence1", "#1 String", "question1", "question", "sentence"):
            return PAIR[name == "sentence" and "question" in self.header].format(i)
        return PAIR[1].format(i) if name in ("sentence2", "#2 String", "question2") else str(i)


MNLI_NAMES = "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse"
TASKS = {
    "SST-2": table("sentence label", "label", ["0", "1"]),
    "MRPC": Layout(["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], "Quality", ["1", "0"]),
    "QQP": table("id qid1 qid2 question1 question2 is_duplicate", "is_duplicate", ["0", "1"]),
    "STS-B": table(
        "index genre filename year old_index source1 source2 sentence1 sentence2 score", "score", ["5.000", "0.250", "3.8"]
    ),
    "MNLI": table(
        f"{MNLI_NAMES} sentence1 sentence2 label1 gold_label", "gold_label", ["neutral", "entailment", "contradiction"]
    ),
    "QNLI": table("index question sentence label", "label", ["entailment", "not_entailment"]),
    "RTE": table("index sentence1 sentence2 label", "label", ["entailment", "not_entailment"]),
    "WNLI": table("index sentence1 sentence2 label", "label", ["0", "1"]),
}


def write_glue(folder: Path, *, train: int = 40, dev: int = 10, test: int = 6) -> Path:
    """Write a folder for every task, as the archive has them; return `folder`."""
    sizes = {"train": train, "dev": dev, "test": test}
    for task in ("CoLA", *TASKS):
        (folder / task).mkdir(parents=True)
        for split, n in sizes.items():
            for kind in ("_matched", "_mismatched") if task == "MNLI" and split != "train" else ("",):
                content = cola(split, n) if task == "CoLA" else TASKS[task].file(split + kind, n)
                (folder / task / f"{split}{kind}.tsv").write_text(content, encoding="utf-8")
    return folder


def lines(*content: str) -> str:
    return "\n".join(content) + "\n"
