"""All parts in their order: proofs first, since the speed of a wrong result is worth nothing."""

from __future__ import annotations

from functools import partial

from .equality import fallback, graph_against_eager
from .finding import MEASURE, PROOF, Gate, Part
from .gpu_tests import gpu_tests, lacks_tests
from .lever_speed import lever_speed
from .loop_proofs import cpu_against_cuda, no_host_wait, resume
from .memory_proofs import out_of_memory, reserved_memory
from .profiling import profile_steps
from .row_proofs import kernels, rows_against_padded, rows_graph_against_eager
from .setup import Setup
from .speed import BEST, lacks_inputs, prediction, speed, whole_training

# Rows of a batch on a GPU, and in small form; how many times as fast as PEFT + Trainer at its best
# ours must be.
SPEEDS = ((32, 4, 4.0), (256, 6, 1.5), (1024, 8, 1.0))


def lacks_gpu(setup: Setup) -> str:
    """Return why a part that has no small form can't run here; empty if there is a GPU."""
    return "no GPU" if setup.is_small else ""


def _speed_part(batch_size: int, small: int, bound: float) -> Part:
    run = partial(speed, batch_size=batch_size, small_batch_size=small)
    gate = Gate(f"against_{BEST}", bound)
    return Part(f"speed-{batch_size}", MEASURE, 75, run, gate=gate)


PARTS = (
    Part("graph-vs-eager", PROOF, 60, graph_against_eager),
    Part("attention-kernels", PROOF, 30, kernels),
    Part("rows-vs-padded", PROOF, 60, rows_against_padded),
    Part("rows-graph-vs-eager", PROOF, 60, rows_graph_against_eager),
    Part("fallback", PROOF, 40, fallback),
    Part("no-host-wait", PROOF, 40, no_host_wait, lacks=lacks_gpu),
    Part("memory", PROOF, 60, reserved_memory, lacks=lacks_gpu),
    Part("out-of-memory", PROOF, 40, out_of_memory),
    Part("resume", PROOF, 40, resume),
    Part("cpu-vs-cuda", PROOF, 60, cpu_against_cuda),
    *(_speed_part(*sizes) for sizes in SPEEDS),
    Part("levers", MEASURE, 90, lever_speed),
    Part("profile", MEASURE, 40, profile_steps),
    Part("prediction", MEASURE, 60, prediction),
    Part("minilm", MEASURE, 90, whole_training, lacks=lacks_inputs),
    Part("gpu-tests", PROOF, 150, gpu_tests, lacks=lacks_tests, sees_all_gpus=True),
)
