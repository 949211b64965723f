"""What can happen to an adapter folder, by seed: to its bytes, its places, its header, its tensors, its settings."""

from __future__ import annotations

import gzip
import json
import os
import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from support.damage import damage_bytes, damage_place, reseal

from lora_scratch.serialization.adapter_folder import CARD, CONFIG, PROVENANCE, WEIGHTS
from lora_scratch.serialization.provenance import sealed

Kind = Callable[[Path, random.Random], str]


def bytes_anywhere(folder: Path, rng: random.Random) -> str:
    """Bit flips, truncations, holes, blocks in the wrong place; the numbers hold most of the bytes, so they are hit most."""
    return damage_bytes(
        folder / rng.choice(present(folder, [*[WEIGHTS] * 4, CONFIG, CONFIG, PROVENANCE, PROVENANCE, CARD])), rng
    )


def bytes_of_the_header(folder: Path, rng: random.Random) -> str:
    """The same within the first kilobytes of the tensor file: its length field, names, types, shapes, offsets."""
    path = folder / WEIGHTS
    content = path.read_bytes()
    length = 8 + struct.unpack("<Q", content[:8])[0]
    path.write_bytes(content[:length])
    what = damage_bytes(path, rng)
    path.write_bytes(path.read_bytes() + content[length:])
    return f"header: {what}"


def place(folder: Path, rng: random.Random) -> str:
    """A file that is gone, empty, a folder, a pipe, a link in a circle; or a file too many."""
    if rng.random() < 0.1:
        (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
        return "extra adapter_model.bin"
    return damage_place(folder / rng.choice(present(folder, [WEIGHTS, CONFIG, PROVENANCE])), rng)


def present(folder: Path, names: list[str]) -> list[str]:
    """Those that are there: a folder of another tool has no provenance.json."""
    return [name for name in names if (folder / name).exists()]


def header(folder: Path, rng: random.Random) -> str:
    """A header that is JSON, and says something else."""
    path = folder / WEIGHTS
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    fields = json.loads(content[8:end])
    one, other = rng.sample([name for name in fields if name != "__metadata__"], 2)
    kind = rng.choice(list(HEADER_EDITS))
    HEADER_EDITS[kind](fields, one, other, rng)
    text = json.dumps(fields).encode()
    if kind == "key twice":
        text = text[:-1] + b", " + json.dumps({one: fields[other]}).encode()[1:]
    length = {"length": rng.choice([0, 1, len(text) - 1, len(text) + 1, 2**31, 2**63, 2**64 - 1])}.get(kind, len(text))
    path.write_bytes(struct.pack("<Q", length) + text + content[end:])
    return f"header: {kind}{resealed(folder, rng) if kind not in SAME_TO_A_READER else ''}"


def _set(key: str, value: Callable[[Any, random.Random], Any]) -> Callable[[dict[str, Any], str, str, random.Random], None]:
    def edit(fields: dict[str, Any], one: str, other: str, rng: random.Random) -> None:
        fields[one][key] = value(fields[one][key], rng)

    return edit


def _exchange(fields: dict[str, Any], one: str, other: str, rng: random.Random) -> None:
    fields[one], fields[other] = fields[other], fields[one]


def _rename(fields: dict[str, Any], one: str, other: str, rng: random.Random) -> None:
    new = [one + "x", one[:-1], one.upper(), "", "../" + one, one.replace(".", "/"), one + "\n", other + "\u202e"]
    fields[rng.choice(new)] = fields.pop(one)


def _type(old: Any, rng: random.Random) -> Any:
    return rng.choice(["F16", "BF16", "F64", "I32", "U32", "U8", "BOOL", "C64", "F8_E4M3", "F4", "Q4", 3, None])


def _shape(old: list[int], rng: random.Random) -> Any:
    return rng.choice([old[::-1], [*old, 1], old[:-1], [2 * n for n in old], [-1], "x", [2**63]])


def _offsets(old: list[int], rng: random.Random) -> Any:
    return rng.choice([[at + 1 for at in old], old[::-1], [0, 0], [old[0], 2**62], old[:1]])


NO_ROWS = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
METADATA: list[Any] = [{"format": "tf"}, {"a": 1}, [], "x" * 9999]
HEADER_EDITS: dict[str, Callable[[dict[str, Any], str, str, random.Random], None]] = {
    "type": _set("dtype", _type),
    "shape": _set("shape", _shape),
    "offsets": _set("data_offsets", _offsets),
    "exchanged": _exchange,
    "renamed": _rename,
    "dropped": lambda fields, one, other, rng: fields.pop(one) and None,
    "alias": lambda fields, one, other, rng: fields.update({one: fields[other]}),
    "extra": lambda fields, one, other, rng: fields.update({one + ".extra": NO_ROWS}),
    "metadata": lambda fields, one, other, rng: fields.update(__metadata__=rng.choice(METADATA)),
    "key twice": lambda fields, one, other, rng: None,
    "length": lambda fields, one, other, rng: None,
}
SAME_TO_A_READER = ("exchanged", "alias", "key twice", "metadata")  # with a digest to match they would be whole files


def resealed(folder: Path, rng: random.Random) -> str:
    """Half of the time the digests are made to fit: a fault that was there from the start has to show itself."""
    if rng.random() < 0.5 or not (folder / PROVENANCE).exists():
        return ""
    reseal(folder)
    return ", with a digest to match"


def tensors(folder: Path, rng: random.Random) -> str:
    """A tensor file that is in order, with a fault in what it holds."""
    found = load_file(folder / WEIGHTS)
    kind, name, other = rng.choice(list(TENSOR_EDITS)), *rng.sample(sorted(found), 2)
    TENSOR_EDITS[kind](found, name, other, rng)
    found = {key: tensor.contiguous().clone() for key, tensor in found.items()}
    save_file(found, folder / WEIGHTS, metadata={"format": "pt"})
    return f"tensor: {kind}{resealed(folder, rng) if kind not in OTHER_NUMBERS else ''}"


Tensors = dict[str, torch.Tensor]
INTEGERS = [torch.int32, torch.uint16, torch.bool]
TENSOR_EDITS: dict[str, Callable[[Tensors, str, str, random.Random], Any]] = {
    "missing": lambda t, name, other, rng: t.pop(name),
    "renamed": lambda t, name, other, rng: t.update({name + rng.choice(["x", ".weight", "\0"]): t.pop(name)}),
    "extra": lambda t, name, other, rng: t.update({name.replace(".layer.0", ".layer.7") + ".x": torch.ones(2)}),
    "transposed": lambda t, name, other, rng: t.update({name: t[name].T if t[name].dim() == 2 else t[name][None]}),
    "wider": lambda t, name, other, rng: t.update({name: torch.cat([t[name], t[name]])}),
    "empty": lambda t, name, other, rng: t.update({name: torch.zeros(0)}),
    "scalar": lambda t, name, other, rng: t.update({name: torch.tensor(1.0)}),
    "integers": lambda t, name, other, rng: t.update({name: t[name].to(rng.choice(INTEGERS))}),
    "float8": lambda t, name, other, rng: t.update({name: t[name].to(torch.float8_e4m3fn)}),
    "complex": lambda t, name, other, rng: t.update({name: t[name].to(torch.complex64)}),
    "half": lambda t, name, other, rng: t.update({name: t[name].half()}),
    "NaN": lambda t, name, other, rng: t[name].view(-1)[rng.randrange(t[name].numel())].fill_(torch.nan),
    "inf": lambda t, name, other, rng: t[name].view(-1)[rng.randrange(t[name].numel())].fill_(-torch.inf),
    "one number": lambda t, name, other, rng: t[name].view(-1)[rng.randrange(t[name].numel())].add_(1e-3),
    "exchanged": lambda t, name, other, rng: t.update({name: t[other], other: t[name]}),
    "all zero": lambda t, name, other, rng: t[name].zero_(),
}
OTHER_NUMBERS = ("half", "one number", "exchanged", "all zero")  # with a digest to match these would be another adapter

NOTHING: list[Any] = [None, False, 0, -0.0, "", [], {}]
NONSENSE: list[Any] = [*NOTHING, True, 1, -1, 3, 2.5, 1e400, 10**400, "x", "4", "\0", [1], ["x"], [[]], {"x": 1}, {"": ""}]
SETTINGS: dict[str, list[Any]] = {
    "r": [1, 2, 3, 5, 8, 33, 10**12],
    "lora_alpha": [1, 5, 6.5, 12, 60, 1e-9, 1e300],
    "lora_dropout": [0.1, 0.5, 0.99, 1],
    "target_modules": [["q_lin"], ["q_lin", "k_lin"], ["lin1"], ["nope"], "all-linear", ".*q_lin", "(", "q_lin"],
    "use_rslora": [True, "false"],
    "use_dora": [True, "no"],
    "bias": ["none", "all", "lora_only", "some"],
    "fan_in_fan_out": [True, False],
    "modules_to_save": [["classifier"], ["nope"], ["pre_classifier", "classifier", "distilbert"]],
    "rank_pattern": [{"k_lin": 2}, {"q_lin": 4}, {"nope": 2}, {"(": 2}, {".*": 3}, {"k_lin": 2.5}, ["k_lin"]],
    "alpha_pattern": [{"k_lin": 2}, {"q_lin": 60}, {"nope": 2}, {"k_lin": "6"}, {"k_lin": 10**400}, ["k_lin"]],
    "layers_to_transform": [0, 1, [0], [1], [0, 1], [7], "0", [True]],
    "exclude_modules": [["k_lin"], ["nope"], "k_lin", 5, [1, "a"]],
    "init_lora_weights": [False, "gaussian", "pissa", "olora", "loftq", "corda"],
    "peft_type": ["LORA", "LOHA", "IA3"],
    "task_type": ["CAUSAL_LM", None],
    "base_model_name_or_path": ["another/base", "../../etc/passwd"],
    "inference_mode": [False],
    "peft_version": ["99.0"],
    "layer_replication": [[[0, 1]]],
    "lora_bias": [True],
    "new_in_2027": [1, False],
}


def settings(folder: Path, rng: random.Random) -> str:
    """adapter_config.json with one to three other values: likely ones, nonsense, swapped with another field's, left out."""
    path = folder / CONFIG
    fields = json.loads(path.read_text(encoding="utf-8"))
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        field, kind = rng.choice(list(SETTINGS)), rng.choice(["likely", "likely", "nonsense", "swapped", "left out"])
        if kind == "left out":
            fields.pop(field, None)
        elif kind == "swapped":
            other = rng.choice(sorted(fields))
            fields[field], fields[other] = fields[other], fields.get(field)
        else:
            fields[field] = rng.choice(SETTINGS[field] if kind == "likely" else NONSENSE)
        done.append(f"{kind} {field}")
    text = json.dumps(fields)
    path.write_text(text.replace("{", "{" + '"a": ' + "[" * 10**5, 1) if rng.random() < 0.02 else text)
    return f"config: {' + '.join(done)}"


def history(folder: Path, rng: random.Random) -> str:
    """provenance.json with another value somewhere, at any depth; sometimes with a seal to match."""
    if not (folder / PROVENANCE).exists():
        return settings(folder, rng)
    fields = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    if rng.random() < 0.2:
        digests = fields["base"]["tensors"][rng.choice(sorted(fields["base"]["tensors"]))]
        digests["float32"] = digests["float32"][::-1]
        reseal(folder, base=fields["base"])
        return "provenance: another base, with a digest to match"
    place: Any = fields
    path = []
    while True:
        key = rng.choice(sorted(place)) if isinstance(place, dict) else rng.randrange(len(place))
        path.append(str(key))
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.7:
            place = place[key]
            continue
        kind = rng.choice(["value", "gone", "renamed"])
        old = place.pop(key) if kind != "value" else place[key]
        if kind == "renamed" and isinstance(place, dict):
            place[f"{key}x"] = old
        if kind == "value":
            place[key] = rng.choice([value for value in NONSENSE if value != old])
        break
    seal = rng.random() < 0.3
    (folder / PROVENANCE).write_text(json.dumps(sealed(fields) if seal else fields))
    return f"provenance: {kind} {path[0]}{', with a digest to match' if seal else ''}"


def another(folder: Path, rng: random.Random) -> str:
    """A file of another adapter of the same shapes stands in the place of ours."""
    name = rng.choice(present(folder, [WEIGHTS, CONFIG, PROVENANCE]))
    (folder / name).write_bytes((folder.parent / "another" / name).read_bytes())
    return f"another's {name}"


# (damage, how often it is drawn)
KINDS: list[tuple[Kind, int]] = [
    (bytes_anywhere, 25),
    (bytes_of_the_header, 15),
    (place, 8),
    (header, 13),
    (tensors, 13),
    (settings, 13),
    (history, 11),
    (another, 2),
]


def damage_adapter(folder: Path, rng: random.Random) -> str:
    """One damage to the folder; what it was."""
    (kind,) = rng.choices([kind for kind, _ in KINDS], [weight for _, weight in KINDS])
    return kind(folder, rng)


def patterns(folder: Path, rng: random.Random) -> str:
    """Expressions over module names in adapter_config.json: odd, huge, ambiguous, hostile."""
    path = folder / CONFIG
    fields = json.loads(path.read_text(encoding="utf-8"))
    expression = rng.choice(EXPRESSIONS)
    field = rng.choice(["rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"])
    value = rng.choice([1, 2, 4, 10**9, 0.5, 10**30])
    fields[field] = {**(fields.get(field) or {}), expression: value} if field.endswith("_pattern") else expression
    path.write_text(json.dumps(fields))
    return f"pattern: {field}"


EXPRESSIONS = [
    "(([a-z_.0-9])+)+!",
    "(a|a)*b",
    "(?i)Q_LIN",
    "(?=q_lin)",
    r"(q)_\1",
    "(?P<name>q_lin)",
    "q_lin{1000}",
    "(q_lin{100}){100}",
    "(" * 500 + "q_lin" + ")" * 500,
    "(" * 20_000,
    "[" * 999,
    "q_lin|" * 5000,
    ".*",
    "",
    "^$",
    "\0",
    "\udcff",
    "\n",
    r"\p{L}+",
    r"\C*",
    "[[:alpha:]]_lin",
    "(?#comment)q_lin",
    "*",
    "q_lin)(",
    "é" * 999,
    "all-linear",
    "re:q_lin",
    "q_lin$|k_lin$",
    r".*\.layer\.0\..*",
]


def shapes(folder: Path, rng: random.Random) -> str:
    """A tensor file that is in order, of other sizes: ranks, widths and modules that the settings may or may not say too."""
    stored = load_file(folder / WEIGHTS)
    names = [name for name in stored if name.endswith("lora_A.weight")] or [name for name in stored if "lora" in name]
    name = rng.choice(names)
    partner = name.replace("lora_A", "lora_B")
    kind = rng.choice(
        ["rank", "both ranks", "every rank", "no layer", "one layer more", "huge", "empty", "double", "in a line"]
    )
    if kind == "rank":
        stored[name] = torch.cat([stored[name], stored[name]])
    elif kind == "both ranks":
        stored[name], stored[partner] = stored[name][:2], stored[partner][:, :2]
    elif kind == "every rank":
        stored = {key: _narrowed(key, tensor) for key, tensor in stored.items()}
    elif kind == "no layer":
        stored = {key: tensor for key, tensor in stored.items() if "lora" not in key}
    elif kind == "one layer more":
        stored |= {key.replace(".0.", ".9."): tensor for key, tensor in stored.items() if ".0." in key}
    elif kind == "huge":
        stored[name] = torch.zeros(2**20, 32)
    elif kind == "empty":
        stored = {}
    elif kind == "double":
        stored = {key: tensor.double() for key, tensor in stored.items()}
    else:
        stored[name] = stored[name].flatten()
    save_file(
        {key: tensor.contiguous().clone() for key, tensor in stored.items()}, folder / WEIGHTS, metadata={"format": "pt"}
    )
    if rng.random() < 0.5:
        change = {"r": rng.choice([1, 2, 4, 8, 64])}
        fields = json.loads((folder / CONFIG).read_text(encoding="utf-8")) | change
        (folder / CONFIG).write_text(json.dumps(fields))
    return f"shapes: {kind}"


def _narrowed(key: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:2] if "lora_A" in key else tensor[:, :2] if "lora_B" in key and tensor.dim() == 2 else tensor


def kind_of_file(folder: Path, rng: random.Random) -> str:
    """A file of another kind under a name of ours: another format, a sparse one, a socket, a link to one of ours."""
    path = folder / rng.choice(present(folder, [WEIGHTS, CONFIG, PROVENANCE]))
    kind = rng.choice([*CONTENTS, "sparse", "socket", "hard link", "link to another", "no rights", "many digits", "deep"])
    content = path.read_bytes()
    path.unlink()
    if kind in CONTENTS:
        path.write_bytes(CONTENTS[kind](content))
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(6 * 2**30)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))  # the whole path is too long for one
    elif kind == "hard link":
        os.link(folder.parent / "another" / path.name, path)
    elif kind == "link to another":
        path.symlink_to(folder.parent / "another" / path.name)
    elif kind == "no rights":
        path.write_bytes(content)
        path.chmod(0)
    else:
        value = "9" * 4301 if kind == "many digits" else "[" * 10**5
        path.write_bytes(b'{"r": ' + value.encode() + b"}")
    return f"kind: {kind} {path.name}"


CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "pickle": lambda content: b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "zip": lambda content: b"PK\x03\x04" + bytes(100),
    "gzip": gzip.compress,
    "gguf": lambda content: b"GGUF\x03\x00\x00\x00" + bytes(100),
    "git lfs": lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123\n",
    "html": lambda content: b"<!doctype html><title>404</title>",
    "utf-16": lambda content: content.decode("latin-1").encode("utf-16"),
    "mark": lambda content: b"\xef\xbb\xbf" + content,
    "twice": lambda content: content + content,
    "line ends": lambda content: content.replace(b"\n", b"\r\n"),
    "zeros": lambda content: bytes(len(content)),
    "upper case": bytes.upper,
}

MORE: list[tuple[Kind, int]] = [(patterns, 30), (shapes, 30), (kind_of_file, 25), (settings, 15)]


def attack_adapter(folder: Path, rng: random.Random) -> str:
    """One of the attacks beyond damage: patterns, shapes, kinds of file, settings."""
    (kind,) = rng.choices([kind for kind, _ in MORE], [weight for _, weight in MORE])
    return kind(folder, rng)
