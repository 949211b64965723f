"""Proves and measures the CUDA path in one command, `scripts/benchmarks/gpu_acceptance.py`.

`setup.py` the device, models and batches, `recorder.py` a fake of CUDA graphs, `finding.py` what a part is and finds;
the parts `equality.py`, `loop_proofs.py`, `memory_proofs.py`, `gpu_tests.py`, `speed.py`, `profiling.py`; `parts.py` their
order, budgets and gates; `runner.py` each in a process of its own; `summary.py`, `machine.py` and `options.py` the rest.
"""

from lora_scratch.commands.benchmarks.acceptance.finding import Part as Part
from lora_scratch.commands.benchmarks.acceptance.finding import Result as Result
from lora_scratch.commands.benchmarks.acceptance.machine import choose_device as choose_device
from lora_scratch.commands.benchmarks.acceptance.machine import describe_machine as describe_machine
from lora_scratch.commands.benchmarks.acceptance.machine import machine_in_words as machine_in_words
from lora_scratch.commands.benchmarks.acceptance.options import AcceptanceOptions as AcceptanceOptions
from lora_scratch.commands.benchmarks.acceptance.parts import PARTS as PARTS
from lora_scratch.commands.benchmarks.acceptance.runner import run_parts as run_parts
from lora_scratch.commands.benchmarks.acceptance.setup import Setup as Setup
from lora_scratch.commands.benchmarks.acceptance.summary import is_accepted as is_accepted
from lora_scratch.commands.benchmarks.acceptance.summary import line_of as line_of
from lora_scratch.commands.benchmarks.acceptance.summary import remarks as remarks
from lora_scratch.commands.benchmarks.acceptance.summary import render_results as render_results
from lora_scratch.commands.benchmarks.acceptance.summary import verdict as verdict
