"""Proves and measures the CUDA path in one command, `scripts/benchmarks/gpu_acceptance.py`.

setup.py          the device, models, batches and steppers
recorder.py       a fake of CUDA graphs
finding.py        what a part is, and its result
equality.py, row_proofs.py, loop_proofs.py, memory_proofs.py, gpu_tests.py, speed.py,
lever_speed.py, profiling.py                                       the parts
parts.py          their order, budgets and gates
runner.py         runs each in a process of its own
summary.py        the table and the verdict
options.py        the flags
"""

from .finding import Part as Part
from .finding import Result as Result
from .options import AcceptanceOptions as AcceptanceOptions
from .parts import PARTS as PARTS
from .runner import run_parts as run_parts
from .setup import Setup as Setup
from .setup import choose_device as choose_device
from .summary import is_accepted as is_accepted
from .summary import line_of as line_of
from .summary import remarks as remarks
from .summary import render_results as render_results
from .summary import verdict as verdict
