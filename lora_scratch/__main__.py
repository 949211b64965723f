"""The console command: `lora-scratch COMMAND ...`, or `python -m lora_scratch COMMAND ...`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from .adapter.targets import nearest
from .errors import INTERRUPTED
from .runtime import garbage

PACKAGE = "lora_scratch.commands"  # the folder scripts/ of a checkout
COMMANDS = {  # by group: name, module, what it does
    "work": {
        "check_data": ("check_data", "find copies, leaks, conflicting and suspect labels in a data set"),
        "train": ("train", "adapt a pretrained classifier to a task; compare it with the frozen model"),
        "evaluate": ("evaluate", "measure an adapter against its frozen base"),
        "predict": ("predict", "classify texts with one adapter, or with many in one model"),
        "export": ("export", "merge an adapter into its base, split it for servers, or push it to the hub"),
        "inspect": ("inspect_adapter", "show what an adapter has learned, or check its folder"),
        "combine": ("combine", "add, subtract, average or scale adapters of one base"),
        "compress": ("compress", "find the smallest adapter that is not significantly worse"),
    },
    "study": {
        "ablate": ("study.ablate", "show which parts of an adapter carry its gain"),
        "play": ("play", "try adapters on a page in the browser: strength, rank, modules, texts"),
        "explain": ("study.explain", "follow one text through an adapted layer"),
        "compare": ("study.compare", "train several methods on the same rows, and compare them"),
        "section7": ("study.section7", "repeat section 7 of the LoRA paper on a model of yours"),
        "table2": ("study.table2", "repeat table 2 of the LoRA paper (GLUE) on a model of yours"),
    },
    "measure": {
        "benchmark": ("benchmarks.benchmark", "speed and memory beside PEFT + Trainer"),
        "benchmark-bank": ("benchmarks.bank", "speed of many adapters in one model"),
        "gpu-acceptance": ("benchmarks.gpu_acceptance", "prove and measure the CUDA path"),
    },
}


def main() -> None:
    """Run the command that is named, with the words after its name. Ctrl-C ends it also while it is imported."""
    try:
        garbage.put_off()
        _run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _run() -> None:
    parser, modules = _parser(), {name: row[0] for group in COMMANDS.values() for name, row in group.items()}
    options = parser.parse_args()
    if options.command not in modules:
        close = ", ".join(nearest(options.command, modules))
        parser.error(f"there is no command {options.command!r}; nearest: {close}; --help lists all")
    if options.modules:
        sys.path.insert(0, "")  # as `python -m` has it: modules of the folder one is in
    for name in options.modules:
        try:
            importlib.import_module(name)
        except (ImportError, TypeError, ValueError, RecursionError) as error:  # not there, or a path
            parser.error(f"--import {name}: {error}")
    _find_commands()
    command = importlib.import_module(f"{PACKAGE}.{modules[options.command]}")
    sys.argv = [_started_as(options.modules, options.command), *options.words]
    from .runs import run_command  # slow to import, and --help does without it

    how = {name: getattr(command, name.upper(), False) for name in ("in_processes", "needs_reader", "only_classifies")}
    if options.modules:
        how["only_classifies"] = False  # the user's modules may need what would be left out
    run_command(command.main, **how)


def _parser() -> argparse.ArgumentParser:
    listed = [
        f"{group}:\n" + "\n".join(f"  {name:<16}{line}" for name, (_, line) in commands.items())
        for group, commands in COMMANDS.items()
    ]
    parser = argparse.ArgumentParser(
        prog="lora-scratch",
        description="LoRA from scratch in PyTorch. `lora-scratch COMMAND --help` lists the flags of a command.",
        epilog="\n\n".join(listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    meaning = "import this module first, for example one that registers an adapter layer; may be given several times"
    parser.add_argument("--import", dest="modules", action="append", default=[], metavar="MODULE", help=meaning)
    parser.add_argument("command", metavar="COMMAND", help="one of those below")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="...", help="the arguments of the command")
    return parser


def _find_commands() -> None:
    """Make scripts/ importable as `lora_scratch.commands` in a checkout that is not installed."""
    if importlib.util.find_spec(PACKAGE) is not None:
        return
    folder = Path(__file__).parent.parent / "scripts"
    places = [str(folder)]
    spec = importlib.util.spec_from_file_location(PACKAGE, folder / "__init__.py", submodule_search_locations=places)
    assert spec is not None  # noqa: S101  (a .py file always has one)
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)


def _started_as(modules: Sequence[str], command: str) -> str:
    """What stands in the usage line and, in front of the arguments, in records: words that one can paste."""
    program = ["python", "-m", "lora_scratch"] if Path(sys.argv[0]).name == "__main__.py" else ["lora-scratch"]
    return shlex.join([*program, *(word for name in modules for word in ("--import", name)), command])


if __name__ == "__main__":
    main()
