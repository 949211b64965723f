"""Optional packages: which are missing, and how to install them."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import ConfigError

EXTRAS = {  # as in setup.cfg, without packages that are always installed
    "play": ("starlette", "uvicorn"),
    "tensorboard": ("tensorboard",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
}


def missing_packages(extra: str) -> list[str]:
    """Return the packages of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if find_spec(name) is None]


def install_command(extra: str) -> str:
    """Return the command that installs an extra."""
    return f'pip install "lora-scratch[{extra}]"'


def check_extra(extra: str, *, flag: str) -> None:
    """Check that the packages that `flag` needs are installed.

    Raises:
        ConfigError: naming those that are not.
    """
    if missing := missing_packages(extra):
        problem = f"{' and '.join(missing)} not installed"
        raise ConfigError(problem, where=flag, remedy=install_command(extra))
