"""Proves and measures the CUDA path in one command, `scripts/gpu_acceptance.py`.

`setup.py` the device, models and batches, `recorder.py` a fake of CUDA graphs, `finding.py` what a part is and finds;
the parts `equality.py`, `loop_proofs.py`, `memory_proofs.py`, `gpu_tests.py`, `speed.py`, `profiling.py`; `parts.py` their
order, budgets and gates; `runner.py` each in a process of its own; `summary.py`, `machine.py` and `options.py` the rest.
"""

from .finding import Part as Part
from .finding import Result as Result
from .machine import choose_device as choose_device
from .machine import describe_machine as describe_machine
from .machine import machine_in_words as machine_in_words
from .options import AcceptanceOptions as AcceptanceOptions
from .parts import PARTS as PARTS
from .runner import run_parts as run_parts
from .setup import Setup as Setup
from .summary import is_accepted as is_accepted
from .summary import line_of as line_of
from .summary import remarks as remarks
from .summary import render_results as render_results
from .summary import verdict as verdict
