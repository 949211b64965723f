"""What can happen to the folder of a run, by seed: to its record, its log, its checkpoints, its report, its places."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from support.adapter_damage import NONSENSE
from support.damage import damage_bytes, damage_place

from lora_scratch.training.checkpoint import TENSORS, VALUES, _digests

SAME, OTHER = "same", "other"  # what a resumed run has to end in: the same adapter, or one of the changed settings
Kind = Callable[[Path, random.Random], tuple[str, str]]


def files(run: Path) -> list[Path]:
    """Every file that a resumed run reads or writes."""
    return sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock")


def last(run: Path) -> Path:
    """The last checkpoint."""
    return max((run / "state").iterdir())


def bytes_anywhere(run: Path, rng: random.Random) -> tuple[str, str]:
    """Bit flips, truncations, holes."""
    path = rng.choice([*files(run), run / "config.json", run / "metrics.jsonl", last(run) / VALUES])
    return f"bytes: {damage_bytes(path, rng)}", OTHER if path.name == "config.json" else SAME


def place(run: Path, rng: random.Random) -> tuple[str, str]:
    """A file that is gone, empty, a folder, a pipe, a link in a circle."""
    return f"place: {damage_place(rng.choice(files(run)), rng)}", SAME


def change(document: Any, rng: random.Random) -> str:
    """Change a JSON document at any depth; the name of what was changed."""
    inner, path = document, list[str]()
    while True:
        key = rng.choice(sorted(inner)) if isinstance(inner, dict) else rng.randrange(min(3, len(inner)))
        path.append(str(key))
        if isinstance(inner[key], dict | list) and inner[key] and rng.random() < 0.8:
            inner = inner[key]
            continue
        if rng.random() < 0.2:
            inner.pop(key)
        else:
            inner[key] = rng.choice([value for value in NONSENSE if value != inner[key]])
        return ".".join(path[:2])


def record(run: Path, rng: random.Random) -> tuple[str, str]:
    """config.json with another value somewhere."""
    document = json.loads((run / "config.json").read_text(encoding="utf-8"))
    what = change(document, rng)
    (run / "config.json").write_text(json.dumps(document))
    return f"record: {what}", OTHER


def values(run: Path, rng: random.Random) -> tuple[str, str]:
    """values.json of the last checkpoint with another value; mostly with digests to match."""
    checkpoint = last(run)
    document = json.loads((checkpoint / VALUES).read_text(encoding="utf-8"))
    what = change(document["values"], rng)
    fits = rng.random() < 0.8
    if fits:
        document["sha256"] = _digests((checkpoint / TENSORS).read_bytes(), document["values"])
    (checkpoint / VALUES).write_text(json.dumps(document))
    return f"values: {what}", OTHER if fits else SAME


def tensors(run: Path, rng: random.Random) -> tuple[str, str]:
    """The tensors of the last checkpoint changed, with digests to match."""
    checkpoint = last(run)
    stored = load_file(checkpoint / TENSORS)
    name, kind = (
        rng.choice(sorted(stored)),
        rng.choice(["gone", "renamed", "wider", "half", "NaN", "integers", "of a value"]),
    )
    tensor = stored.pop(name)
    if kind == "renamed":
        stored[name + "x"] = tensor
    elif kind == "wider":
        stored[name] = torch.cat([tensor.reshape(-1), tensor.reshape(-1)])
    elif kind == "NaN":
        stored[name] = torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else torch.zeros_like(tensor)
    elif kind == "of a value":
        stored |= {name: tensor, "epoch": torch.ones(())}
    elif kind != "gone":
        stored[name] = tensor.to(torch.float16 if kind == "half" else torch.int32)
    content = save(stored)
    document = json.loads((checkpoint / VALUES).read_text(encoding="utf-8"))
    document["sha256"] = _digests(content, document["values"])
    (checkpoint / TENSORS).write_bytes(content)
    (checkpoint / VALUES).write_text(json.dumps(document))
    return f"tensors: {kind} {name.split('/')[0]}", OTHER


def checkpoints(run: Path, rng: random.Random) -> tuple[str, str]:
    """Folders of checkpoints that are gone, too many, of other steps, or none."""
    state, kind = (
        run / "state",
        rng.choice(["gone", "all gone", "later", "far", "a file", "empty", "letters", "digits", "twice"]),
    )
    if kind == "gone":
        shutil.rmtree(last(run))
    elif kind == "all gone":
        shutil.rmtree(state)
    elif kind == "a file":
        (state / "step_000009").write_bytes(b"x")
    elif kind == "empty":
        (state / "step_000009").mkdir()
    else:
        names = {
            "later": "step_000007",
            "far": "step_999999999",
            "letters": "step_x",
            "digits": os.fsdecode("step_٩".encode()),  # also where file names are ASCII
            "twice": "step_0000008",
        }
        shutil.copytree(last(run), state / names[kind])
    return f"checkpoints: {kind}", OTHER if kind in ("later", "far") else SAME


def links(run: Path, rng: random.Random) -> tuple[str, str]:
    """A file or folder of the run that leads out of it."""
    outside = run.parent / "outside"
    name = rng.choice(
        [".lock", "metrics.jsonl", "state", "adapter", "report.json", "report.html", "logits.safetensors", "config.json"]
    )
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
        path.symlink_to(outside / "folder")
    else:
        path.unlink(missing_ok=True)
        if rng.random() < 0.4:
            os.link(outside / "file", path)
        else:
            path.symlink_to(outside / rng.choice(["file", "folder", "nowhere"]))
    return f"links: {name}", SAME


def leftovers(run: Path, rng: random.Random) -> tuple[str, str]:
    """Names like those of temporary files, of others and of ours: folders, links, files."""
    outside = run.parent / "outside"
    where = rng.choice([run, run / "state"])
    name = rng.choice([".git.bak", ".notes.2024", ".my.part", ".x.lora-scratch-1.part", ".step_000009.lora-scratch-gone"])
    kind = rng.choice(["folder", "file", "link"])
    if kind == "folder":
        (where / name).mkdir()
        (where / name / "file").write_text("mine")
    elif kind == "file":
        (where / name).write_text("mine")
    else:
        (where / name).symlink_to(outside / rng.choice(["file", "folder"]))
    return f"leftovers: {kind} {name}", SAME


def report(run: Path, rng: random.Random) -> tuple[str, str]:
    """A report that is none."""
    contents = [b"", b"{", b"{}", b"null", b"[" * 10**5, b"\xff", b'{"task": 1}', b"9" * 5000]
    (run / "report.json").write_bytes(rng.choice(contents))
    return "report: none", SAME


def log(run: Path, rng: random.Random) -> tuple[str, str]:
    """Lines of the log that are none."""
    lines = [
        b"{}\n",
        b"[]\n",
        b"\xff\xfe\n",
        b"null",
        bytes(5000),
        b"[" * 10**5 + b"\n",
        b'{"event": 1}\n',
        b"9" * 5000 + b"\n",
    ]
    path = run / "metrics.jsonl"
    content = path.read_bytes().splitlines(keepends=True)
    content.insert(rng.randint(0, len(content)), rng.choice(lines))
    path.write_bytes(b"".join(content[: rng.randint(0, len(content))] if rng.random() < 0.3 else content))
    return "log: a line that is none", SAME


KINDS: list[tuple[Kind, int]] = [
    (bytes_anywhere, 12),
    (place, 8),
    (record, 20),
    (values, 24),
    (tensors, 12),
    (checkpoints, 6),
    (links, 8),
    (leftovers, 4),
    (report, 2),
    (log, 4),
]


def damage_run(run: Path, rng: random.Random) -> tuple[str, str]:
    """One damage to the folder; what it was, and what a resumed run that succeeds has to end in."""
    (kind,) = rng.choices([kind for kind, _ in KINDS], [weight for _, weight in KINDS])
    return kind(run, rng)
