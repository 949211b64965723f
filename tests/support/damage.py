"""Damage by seed: what disks, networks, editors and other tools do to files. The same seed gives the same damage."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from lora_scratch.serialization.adapter_folder import PROVENANCE, WEIGHTS
from lora_scratch.serialization.provenance import sealed

Damage = Callable[[bytearray, random.Random], None]


def reseal(folder: Path, **changes: object) -> None:
    """Bring the digests in provenance.json up to date, as if what is in the folder had been written so."""
    fields = json.loads((folder / PROVENANCE).read_text(encoding="utf-8")) | changes
    fields["adapter_sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / PROVENANCE).write_text(json.dumps(sealed(fields)))


def flip(content: bytearray, rng: random.Random) -> None:
    """One to three bits."""
    for _ in range(rng.randint(1, 3)):
        if content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def cut(content: bytearray, rng: random.Random) -> None:
    """The end is missing: a copy that was interrupted."""
    del content[rng.randrange(len(content) + 1) :]


def behead(content: bytearray, rng: random.Random) -> None:
    """The beginning is missing."""
    del content[: rng.randint(1, 64)]


def insert(content: bytearray, rng: random.Random) -> None:
    """A few random bytes too many."""
    at = rng.randint(0, len(content))
    content[at:at] = rng.randbytes(rng.randint(1, 9))


def remove(content: bytearray, rng: random.Random) -> None:
    """A few bytes too little."""
    at = rng.randint(0, len(content))
    del content[at : at + rng.randint(1, 9)]


def zero(content: bytearray, rng: random.Random) -> None:
    """A block that was never written."""
    at, length = rng.randint(0, len(content)), rng.choice([1, 8, 64, 512])
    content[at : at + length] = bytes(len(content[at : at + length]))


def swap(content: bytearray, rng: random.Random) -> None:
    """Two blocks in each other's place."""
    length = min(rng.choice([1, 4, 16, 64]), len(content) // 2)
    first = rng.randint(0, len(content) - 2 * length)
    second = rng.randint(first + length, len(content) - length)
    a, b = content[first : first + length], content[second : second + length]
    content[first : first + length], content[second : second + length] = b, a


def repeat(content: bytearray, rng: random.Random) -> None:
    """A block twice."""
    at, length = rng.randint(0, len(content)), rng.choice([1, 16, 256])
    content[at:at] = content[at : at + length]


BYTES: tuple[Damage, ...] = (flip, flip, flip, cut, behead, insert, remove, zero, swap, repeat)


def damage_bytes(path: Path, rng: random.Random, kinds: tuple[Damage, ...] = BYTES) -> str:
    """One kind of damage to the bytes of a file; what it was."""
    kind, content = rng.choice(kinds), bytearray(path.read_bytes())
    kind(content, rng)
    path.write_bytes(content)
    return f"{kind.__name__} {path.name}"


def damage_place(path: Path, rng: random.Random) -> str:
    """Something else stands where the file was."""
    kind = rng.choice(["gone", "empty", "folder", "pipe", "circle", "dangling", "renamed", "endless"])
    path.rename(path.with_name(path.name + ".old")) if kind == "renamed" else path.unlink()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)  # a reader would wait for ever
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind in ("circle", "dangling"):
        path.symlink_to(path if kind == "circle" else "nowhere")
    return f"{kind} {path.name}"


def copy(good: Path, place: Path) -> Path:
    """A fresh copy of the folder at `place`, which is emptied first."""
    shutil.rmtree(place, ignore_errors=True)
    return shutil.copytree(good, place)


def told(counts: Counter[str]) -> str:
    """The counts as a table."""
    rows = [f"{count:>6}  {what}" for what, count in sorted(counts.items())]
    return "\n".join(["", *rows, f"{sum(counts.values()):>6}  in all"])
