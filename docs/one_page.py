"""LoRA fine-tuning on one page: data, frozen base, LoRA layers, training, test, adapter file, use.

`python docs/one_page.py` runs the demo: offline, in seconds. With a BERT-like encoder (a folder or
a hub name) and text;label files: `python docs/one_page.py MODEL TRAIN.txt TEST.txt [TEXT...]`.
"""

import sys

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging

from lora_scratch.layers.lora import LoRALinear  # x Wᵀ + b + scaling · (dropout(x) Aᵀ) Bᵀ

Rows = list[tuple[str, str]]  # (text, label)
TARGETS = ("q_lin", "k_lin", "v_lin", "query", "key", "value")  # DistilBERT's names, then BERT's
RANK, ALPHA, DROPOUT = 8, 16, 0.1
EPOCHS, BATCH_SIZE, MAX_TOKENS, LEARNING_RATE = 3, 32, 128, 4e-3
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.float16 if DEVICE == "cuda" else torch.float32  # of the matrix products
ADAPTER_FILE = "one_page.safetensors"


def read_rows(path: str) -> Rows:
    """Read `text;label` lines. A text can contain semicolons: the last one of a line counts."""
    with open(path, encoding="utf-8") as lines:
        rows = [line.strip().rpartition(";")[::2] for line in lines]
    if wrong := [number for number, row in enumerate(rows, start=1) if not all(row)]:
        raise ValueError(f"{path}: lines {wrong} are not text;label; correct or remove them")
    return rows


class Classifier(nn.Module):
    """A pretrained encoder, frozen, and a head. If the labels are new, the head starts random."""

    def __init__(self, name: str, labels: list[str]) -> None:
        super().__init__()
        self.labels = labels  # C of them
        self.tokenizer = AutoTokenizer.from_pretrained(name, model_max_length=MAX_TOKENS)
        options = {"id2label": dict(enumerate(labels)), "ignore_mismatched_sizes": True}
        model = AutoModelForSequenceClassification.from_pretrained(name, **options)
        model.base_model.requires_grad_(False)  # the encoder
        self.model = model.float().to(DEVICE)  # a float16 head would lose small updates

    def forward(self, texts: list[str]) -> Tensor:
        """Return the logits of B texts, (B, C) in float32. The matrix products run in DTYPE."""
        inputs = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.autocast(DEVICE, DTYPE, enabled=DTYPE is not torch.float32):
            logits: Tensor = self.model(**inputs.to(DEVICE)).logits  # token ids (B, T) -> (B, C)
        return logits.float()

    @torch.no_grad()
    def predict(self, texts: list[str]) -> list[str]:
        """Return the label of each text."""
        self.eval()  # dropout off
        chunks = [texts[start : start + BATCH_SIZE] for start in range(0, len(texts), BATCH_SIZE)]
        return [self.labels[n] for chunk in chunks for n in self(chunk).argmax(-1).tolist()]

    def accuracy(self, rows: Rows) -> float:
        """Return the share of rows whose label is predicted. A label new to the model is a miss."""
        predicted = self.predict([text for text, _ in rows])
        return sum(a == b for a, (_, b) in zip(predicted, rows, strict=True)) / len(rows)


def inject(model: nn.Module) -> None:
    """Replace the query, key and value layers by LoRA layers. B = 0, so no output changes yet."""
    for path, layer in list(model.named_modules()):
        if path.endswith(TARGETS) and isinstance(layer, nn.Linear):
            model.set_submodule(path, LoRALinear(layer, RANK, ALPHA, dropout=DROPOUT))
    if not any(isinstance(layer, LoRALinear) for layer in model.modules()):
        raise ValueError(f"no linear layer is called {' or '.join(TARGETS)}; edit TARGETS")


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what is trained and saved: A and B of every LoRA layer, and the head."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def train(model: Classifier, rows: Rows) -> None:
    """Minimize the cross entropy of the rows, in batches of B."""
    optimizer = torch.optim.AdamW(trained_tensors(model).values())
    scaler = torch.amp.GradScaler(DEVICE, enabled=DTYPE is torch.float16)
    batches = [b for _ in range(EPOCHS) for b in torch.split(torch.randperm(len(rows)), BATCH_SIZE)]
    model.train()  # dropout on
    for step, batch in enumerate(batches):
        texts, labels = zip(*(rows[row] for row in batch.tolist()), strict=True)
        targets = torch.tensor([model.labels.index(label) for label in labels])  # (B,)
        loss = nn.functional.cross_entropy(model(list(texts)), targets.to(DEVICE))
        torch.autograd.backward(scaler.scale(loss))  # float16 rounds small gradients to 0: scale up
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / len(batches))
        scaler.step(optimizer)  # scales back; skips the step if a gradient is inf or NaN
        scaler.update()
        optimizer.zero_grad()


if __name__ == "__main__":
    torch.manual_seed(0)  # decides the head, A, dropout and the order of the rows
    logging.set_verbosity_error()  # the new head is expected; hide the warning
    if len(sys.argv) > 1:
        name, train_rows, test_rows = sys.argv[1], *map(read_rows, sys.argv[2:4])
    else:
        from lora_scratch.demo import demo_splits, foundation_folder

        splits = demo_splits()
        shown = splits.train + splits.test
        rows = [(row.text, splits.labels[row.label]) for row in shown]  # type: ignore[index]
        name, train_rows, test_rows = str(foundation_folder()), rows[:2400], rows[-1000:]
    model = Classifier(name, sorted({label for _, label in train_rows}))
    print(f"baseline accuracy {model.accuracy(test_rows):.3f}")
    inject(model)
    train(model, train_rows)
    print(f"adapted accuracy  {model.accuracy(test_rows):.3f}")
    save_file(trained_tensors(model), ADAPTER_FILE)
    fresh = Classifier(name, model.labels)  # the same base, as another program would load it
    inject(fresh)
    frozen = {n: t for n, t in fresh.state_dict().items() if n not in trained_tensors(fresh)}
    fresh.load_state_dict(frozen | load_file(ADAPTER_FILE))  # raises if a name or a shape differs
    for text in sys.argv[4:] or ["my sister is sad, but i am happy"]:
        print(f"{text!r} -> {fresh.predict([text])[0]}")
