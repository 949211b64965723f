"""`python -m lora_scratch train ...` is `python scripts/train.py ...`, also from a wheel, where there is no checkout.

With `--import MODULE` before the name, a module of your own is imported first: one that registers an adapter layer.
"""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path


def main() -> None:
    """Run the script that is named, with the words after its name."""
    scripts = {path.stem: path for path in _installed() or _beside()}
    parser = argparse.ArgumentParser(prog="python -m lora_scratch", description=__doc__, epilog="SCRIPT --help says more.")
    meaning = "import this first, from the folder you are in or an installed package; once for each module"
    parser.add_argument("--import", dest="modules", action="append", default=[], metavar="MODULE", help=meaning)
    parser.add_argument("script", choices=sorted(scripts), metavar="SCRIPT", help=", ".join(sorted(scripts)))
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="...", help="what the script is given")
    given = parser.parse_args()
    for name in given.modules:
        try:
            importlib.import_module(name)
        except (ImportError, TypeError, ValueError, RecursionError) as error:  # not there, or a path in place of a name
            parser.error(f"--import {name}: {error}")
    path = str(scripts[given.script])
    sys.argv = [path, *given.words]
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
