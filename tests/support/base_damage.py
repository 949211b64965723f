"""What can be wrong with the folder of a base model, by seed: its settings, its tokenizer, its tensor file, its places."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from support.adapter_damage import CONTENTS, HEADER_EDITS, NONSENSE

MODEL, CONFIG, TOKENIZER, TOKENIZER_CONFIG = FILES = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
SETTINGS: dict[str, list[Any]] = {
    "model_type": ["bert", "gpt2", "nope", "", None, 3, "../bert", "auto"],
    "architectures": [["BertModel"], ["Nope"], [], None, "DistilBertForSequenceClassification", [3]],
    "auto_map": [{"AutoModelForSequenceClassification": "evil.Model"}, {"AutoConfig": "evil.Config"}, "x", 3],
    "vocab_size": [1, 3, 10**6, 10**12, -1, "60", None],
    "max_position_embeddings": [1, 2, 10**12, -1, 0, None],
    "dim": [1, 31, 33, 10**9, 0, "32"],
    "n_heads": [1, 3, 0, -2, 32, 64],
    "n_layers": [0, 1, 3, 100, 10**9, -1],
    "hidden_dim": [1, 10**12, 0],
    "activation": ["gelu", "relu", "nope", "__import__", None, 3],
    "dropout": [-1, 2, "x", float("nan")],
    "torch_dtype": ["float16", "load", "nope", 3],
    "dtype": ["float16", "bfloat16", "load", "nope", "int8", 3],
    "attn_implementation": ["eager", "flash_attention_2", "kernels-community/evil", "nope"],
    "_attn_implementation": ["eager", "kernels-community/evil", "nope"],
    "id2label": [
        {},
        {"0": "a"},
        {"0": "a", "1": "a"},
        {"x": "a", "y": "b"},
        ["a", "b"],
        {"0": 3, "1": None},
        {"0": "a" * 10**5},
    ],
    "label2id": [{}, {"a": 5, "b": 5}, {"a": "x"}, 3],
    "num_labels": [0, 1, 3, 10**12, -1, "x"],
    "problem_type": ["regression", "multi_label_classification", "nope", 3],
    "pad_token_id": [1, 59, 10**6, -1, None, "x"],
    "tie_word_embeddings": [True, "x"],
    "quantization_config": [{}, {"quant_method": "bitsandbytes", "load_in_4bit": True}, {"quant_method": "nope"}, "x"],
    "initializer_range": [float("nan"), -1, "x"],
    "transformers_version": ["99.0", 3, None],
    "is_decoder": [True, "x"],
    "_name_or_path": ["../../etc", "evil/model", 3],
    "name_or_path": ["evil/model"],
    "use_cache": ["x"],
    "output_attentions": [True],
    "output_hidden_states": [True],
    "return_dict": [False, "x"],
    "chunk_size_feed_forward": [3, -1],
    "new_in_2027": [1, {"a": []}],
}
Kind = Callable[[Path, random.Random], str]


def write_odd(path: Path, text: str) -> None:
    """Write a file of others: now and then not as JSON has it."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def settings(folder: Path, rng: random.Random) -> str:
    """config.json with one or two other values."""
    fields, done = json.loads((folder / CONFIG).read_text(encoding="utf-8")), []
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice([*SETTINGS, *SETTINGS, *fields])
        likely = name in SETTINGS and rng.random() < 0.8
        fields[name] = rng.choice(SETTINGS[name] if likely else NONSENSE)
        done.append(name)
    write_odd(folder / CONFIG, json.dumps(fields))
    return f"settings: {' + '.join(done)}"


def texts(folder: Path, rng: random.Random) -> str:
    """A JSON file that is none, or not an object."""
    contents = [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        "3",
        "[" * 10**5,
        "9" * 5000,
        '{"a": 1, "a": 2}',
        "{}",
        "\ufeff{}",
        "<!doctype html>",
    ]
    name = rng.choice([CONFIG, TOKENIZER, TOKENIZER_CONFIG])
    write_odd(folder / name, rng.choice(contents))
    return f"texts: {name}"


def tokenizer(folder: Path, rng: random.Random) -> str:
    """The tokenizer's files: gone, of other values, with hostile ones."""
    kind = rng.choice(["gone", "value", "value", "no words", "huge", "class", "template"])
    if kind == "gone":
        for name in rng.sample([TOKENIZER, TOKENIZER_CONFIG], rng.choice([1, 2])):
            (folder / name).unlink()
        return "tokenizer: gone"
    path = folder / (TOKENIZER if kind in ("value", "no words", "huge") else TOKENIZER_CONFIG)
    fields = json.loads(path.read_text(encoding="utf-8"))
    if kind == "no words":
        fields["model"]["vocab"] = dict(list(fields["model"]["vocab"].items())[:5])
    elif kind == "huge":
        fields["model"]["vocab"] |= {f"word{i}": 10**6 + i for i in range(9)}
    elif kind == "value":
        inner = fields
        while True:
            key = rng.choice(sorted(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
            if isinstance(inner[key], dict | list) and inner[key] and rng.random() < 0.7:
                inner = inner[key]
                continue
            inner[key] = rng.choice(NONSENSE)
            break
    elif kind == "class":
        fields["tokenizer_class"] = rng.choice(["Nope", "BertTokenizer", "GPT2TokenizerFast", "", None, 3, "os.system"])
    else:
        fields |= rng.choice(TEMPLATES)
    write_odd(path, json.dumps(fields))
    return f"tokenizer: {kind}"


TEMPLATES: list[dict[str, Any]] = [
    {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}},
    {"chat_template": "{{ 1 / 0 }}"},
    {"model_max_length": -1},
    {"model_max_length": 10**30},
    {"model_max_length": "x"},
    {"padding_side": "left"},
    {"padding_side": "nope"},
    {"pad_token": None},
    {"pad_token": "nope"},
    {"unk_token": 3},
    {"added_tokens_decoder": {"x": {"content": "y"}}},
    {"vocab_file": "/etc/passwd"},
    {"tokenizer_file": "/etc/passwd"},
]


def header(folder: Path, rng: random.Random) -> str:
    """The header of the tensor file says something else."""
    path = folder / MODEL
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    fields = json.loads(content[8:end])
    one, other = rng.sample([name for name in fields if name != "__metadata__"], 2)
    kind = rng.choice([*HEADER_EDITS, "2**63", "200 dimensions", "length"])
    if kind == "2**63":
        fields[one]["shape"] = [0, 2**63]
    elif kind == "200 dimensions":
        fields[one]["shape"] = [*fields[one]["shape"], *[1] * 200]
    elif kind not in ("key twice", "length"):
        HEADER_EDITS[kind](fields, one, other, rng)
    text = json.dumps(fields).encode()
    length = rng.choice([0, 1, 2**31, 2**63, 2**64 - 1]) if kind == "length" else len(text)
    path.write_bytes(struct.pack("<Q", length) + text + content[end:])
    return f"header: {kind}"


def weights(folder: Path, rng: random.Random) -> str:
    """The tensor file is another one: pickled, sharded, sparse, empty, of other tensors."""
    path, kind = folder / MODEL, rng.choice(["pickle alone", "index", "index out", "sparse", "empty", "others", *CONTENTS])
    content = path.read_bytes()
    if kind in ("pickle alone", "index", "index out"):
        path.unlink()
    if kind == "pickle alone":
        (folder / "pytorch_model.bin").write_bytes(CONTENTS["pickle"](b""))
    elif kind.startswith("index"):
        (folder / "part.safetensors").write_bytes(content)
        part = "../outside/file" if kind == "index out" else rng.choice(["nope.safetensors", 3, "part.safetensors", ""])
        index = {"metadata": {}, "weight_map": dict.fromkeys(load_names(content), part)}
        write_odd(folder / "model.safetensors.index.json", json.dumps(index))
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(6 * 2**30)
    elif kind == "empty":
        save_file({}, path, metadata={"format": "pt"})
    elif kind == "others":
        stored = load_file(path)
        save_file({f"x.{name}": tensor for name, tensor in stored.items()}, path, metadata={"format": "pt"})
    else:
        path.write_bytes(CONTENTS[kind](content))
    return f"weights: {kind}"


def load_names(content: bytes) -> list[str]:
    """The names of the tensors."""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    return [name for name in json.loads(content[8:end]) if name != "__metadata__"]


def places(folder: Path, rng: random.Random) -> str:
    """Links, pipes and folders in the place of files, and files of other tools beside them."""
    name = rng.choice(FILES)
    path, kind = folder / name, rng.choice(["circle", "dangling", "outside", "pipe", "folder", "beside", "code"])
    if kind == "beside":
        (folder / "adapter_config.json").write_text(rng.choice(['{"peft_type": "LORA", "r": 8}', "{", "[]"]))
        return "places: an adapter beside it"
    if kind == "code":
        (folder / "evil.py").write_text("import pathlib\npathlib.Path('was_run').touch()\n")
        return "places: code beside it"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"circle": path, "dangling": "nowhere", "outside": folder.parent / "outside" / "file"}[kind])
    return f"places: {kind} {name}"


def emptied(folder: Path, rng: random.Random) -> str:
    """A folder with one file alone, or none."""
    kept = rng.choice([None, *FILES])
    for path in folder.iterdir():
        if path.name != kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return f"emptied: {kept} alone"


KINDS: list[tuple[Kind, int]] = [
    (settings, 40),
    (texts, 8),
    (tokenizer, 18),
    (header, 12),
    (weights, 10),
    (places, 10),
    (emptied, 2),
]


def attack_base(folder: Path, rng: random.Random) -> str:
    """One attack on the folder; what it was."""
    (kind,) = rng.choices([kind for kind, _ in KINDS], [weight for _, weight in KINDS])
    return kind(folder, rng)
