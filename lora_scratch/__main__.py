"""`python -m lora_scratch train ...` is `python scripts/train.py ...`, also from a wheel, where there is no checkout."""

from __future__ import annotations

import argparse
import runpy
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path


def main() -> None:
    """Run the script that the first word names, with the words after it."""
    scripts = {path.stem: path for path in _installed() or _beside()}
    parser = argparse.ArgumentParser(prog="python -m lora_scratch", description=__doc__, epilog="SCRIPT --help says more.")
    parser.add_argument("script", choices=sorted(scripts), metavar="SCRIPT", help=", ".join(sorted(scripts)))
    path = str(scripts[parser.parse_args(sys.argv[1:2]).script])
    sys.argv = [path, *sys.argv[2:]]
    runpy.run_path(path, run_name="__main__")


def _installed() -> list[Path]:
    """The scripts of a wheel: setup.cfg puts them into share/lora-scratch/scripts of the environment."""
    try:
        record = files("lora-scratch") or []
    except PackageNotFoundError:  # a checkout on the path that nobody installed
        return []
    return [Path(str(file.locate())) for file in record if file.parts[-3:-1] == ("lora-scratch", "scripts")]


def _beside() -> list[Path]:
    """The scripts of the checkout that this file lies in."""
    return sorted((Path(__file__).parent.parent / "scripts").glob("*.py"))


if __name__ == "__main__":
    main()
