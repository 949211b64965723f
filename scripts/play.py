"""Try adapters on a page in the browser: type a text, turn the strength, switch modules off, lower the rank.

    lora-scratch play checkpoints/demo/adapter
    lora-scratch play checkpoints/demo/adapter checkpoints/mine/adapter --open

The page is served on 127.0.0.1 for this machine alone, and loads nothing from elsewhere. It shows the numbers of
`explain` and `inspect`, in float32 as they do, and those of `predict` up to rounding. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_scratch.errors import Interrupted
from lora_scratch.runs import add_adapter, argument_parser, check_given, open_adapter, run_command
from lora_scratch.runtime.device import use_threads
from lora_scratch.runtime.extras import check_extra

THREADS = 1  # of the model: on a busy machine two of them wait for each other, and MiniLM takes a second in place of 20 ms


def main() -> None:
    """Open the adapters, print the address, and answer until Ctrl-C."""
    options = parse()
    check_extra("play", flag="play")
    use_threads(THREADS)
    from lora_scratch.play.played import PlayedAdapter
    from lora_scratch.play.playground import Playground
    from lora_scratch.play.server import listen, serve

    with listen(options.port) as listening:
        opened: dict[str, Any] = {"model": options.model, "labels": options.labels}
        places = zip(names(options.adapter), options.adapter, strict=True)
        adapters = {name: PlayedAdapter(open_adapter(folder, **opened), opened) for name, folder in places}
        address, port = listening.getsockname()
        print(f"play: http://{address}:{port}/    Ctrl-C ends it", flush=True)
        if options.open:
            webbrowser.open(f"http://{address}:{port}/")
        try:
            serve(Playground(adapters), listening)
        except Interrupted:  # SIGTERM or SIGHUP
            raise
        except KeyboardInterrupt:
            print("ended")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argument_parser(__doc__)
    add_adapter(parser, nargs="+")
    page = parser.group("page")
    page.add_argument("--port", type=int, default=0, help="of 127.0.0.1 (default: a free one)")
    page.add_argument("--open", action="store_true", help="open the page in the browser")
    options = parser.parse_args()
    check_given(parser, options)
    if not 0 <= options.port < 2**16:
        parser.error(f"--port: found {options.port}; expected 0 to {2**16 - 1}")
    if "" in options.adapter:
        parser.error("ADAPTER: found an empty value")
    if len(set(options.adapter)) < len(options.adapter):
        parser.error("ADAPTER: one is named twice")
    return options


def names(folders: Sequence[str]) -> list[str]:
    """Return a short name for every folder: of the run, if no two are equal, else the folder as typed."""
    paths = [Path(folder) for folder in folders]
    short = [path.parent.name if path.name == "adapter" and path.parent.name else path.name for path in paths]
    unique = len(set(short)) == len(short)
    return short if unique else list(folders)


if __name__ == "__main__":
    run_command(main)
