"""Packages that only some work needs: whether they are there, asked before the work begins."""

from __future__ import annotations

from importlib.util import find_spec

EXTRAS = {  # what setup.cfg has under these names, but for what everybody has
    "report": ("jinja2", "matplotlib"),
    "tensorboard": ("tensorboard",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
}


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if find_spec(name) is None]


def remedy(extra: str) -> str:
    """The command that installs them."""
    return f'pip install "lora-scratch[{extra}]"'
