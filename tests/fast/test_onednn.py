"""lora_scratch/fast/onednn.py: float32 products by the faster library, where it is exact."""

import os
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from support import rank_work
from support.machines import MACHINES, REAL, answering
from support.ranks import in_processes
from torch import nn

from lora_scratch.fast import onednn
from lora_scratch.fast.onednn import (
    CACHES,
    KERNELS,
    KERNELS_OF_MATRICES,
    can_be_packed,
    choice,
    helps,
    is_exact,
    limit_kernel_cache,
    multiply,
    onednn_is_faster,
    pack_weight,
    set_choice,
    through_onednn,
)

# float32 through oneDNN, packed in float32, packed in bfloat16
ROUTES = {
    "AMX": (False, True, True),
    "AVX-512 with bfloat16": (True, True, True),
    "AVX-512": (True, True, True),
    "AVX2": (True, True, False),
    "slow oneDNN": (False, True, True),
    "no packing": (True, False, False),
    "no oneDNN": (False, False, False),
}
matmul = getattr(torch.backends.mkldnn, "matmul", None)
pytestmark = pytest.mark.skipif(not hasattr(matmul, "fp32_precision"), reason="this torch has no such switch")


@pytest.fixture
def fresh():
    """A CPU without AMX whose self-test is small and has not been made yet, though every product is float32's own.

    What a test patches is put back before the machine is: in the other order the machine would stay.
    """
    with answering(MACHINES["AVX-512 with bfloat16"]), pytest.MonkeyPatch.context() as patch:
        patch.setattr(onednn, "_error", lambda *_: 1e-6)
        yield patch


@pytest.mark.parametrize("name", MACHINES)
def test_the_route_of_a_product_follows_from_what_the_cpu_says(name, monkeypatch):
    """oneDNN multiplies float32 where it is exact and faster; a weight is packed where oneDNN multiplies its dtype."""
    with answering(MACHINES[name]):
        monkeypatch.setattr(onednn, "_error", lambda *_: 1e-6)
        packed = (can_be_packed(torch.empty(2, 2), dtype) for dtype in (torch.float32, torch.bfloat16))
        assert (helps(nn.Linear(2, 2)), *packed) == ROUTES[name]


def test_the_switch_is_set_inside_and_put_back_also_after_an_exception():
    """It is the whole process's."""
    before = matmul.fp32_precision
    with suppress(KeyError), through_onednn():
        assert matmul.fp32_precision == "bf16"
        raise KeyError
    assert matmul.fp32_precision == before


@pytest.mark.skipif(REAL.amx, reason="with matrix registers it is not float32")
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1, 7, 3), (64, 768, 768), (33, 3072, 5)])
def test_products_through_onednn_are_float32s_own(tokens, inputs, outputs):
    """Within 1e-5 of float64's largest entry, which bfloat16 misses by a hundred times."""
    x, weight = torch.randn(tokens, inputs), torch.randn(outputs, inputs)
    with through_onednn():
        product = x @ weight.T
    exact = x.double() @ weight.double().T
    assert (product - exact).abs().max() <= 1e-5 * exact.abs().max()


@pytest.mark.parametrize(("error", "gain", "expected"), [(1e-6, 1.2, True), (1e-6, 1.05, False), (1e-3, 2.0, False)])
def test_onednn_serves_only_where_it_is_exact_and_faster(fresh, error, gain, expected):
    """Both, as the self-test measures them."""
    fresh.setattr(onednn, "_error", lambda *_: error)
    fresh.setattr(onednn, "_gain", lambda *_: gain)
    assert onednn_is_faster() is expected


def test_onednn_never_serves_where_it_would_round_to_bfloat16(fresh):
    """Whatever a test of a few products says."""
    fresh.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    fresh.setattr(onednn, "_error", lambda *_: 0.0)
    fresh.setattr(onednn, "_gain", lambda *_: 2.0)
    assert onednn_is_faster() is False


def test_the_self_test_measures_and_leaves_the_switch_alone(monkeypatch):
    """Its error is float32's, its gain a positive number; twice asked, it has measured once."""
    monkeypatch.setattr(onednn, "_choice", [])
    is_exact.cache_clear()
    before = matmul.fp32_precision
    x, weight = torch.randn(8, onednn.WIDTH), torch.randn(64, onednn.WIDTH)
    assert onednn._gain(x, weight) > 0
    if not REAL.amx:
        assert 0 < onednn._error(x, weight) < 1e-5
    answer = onednn_is_faster()
    monkeypatch.setattr(onednn, "_error", None)
    monkeypatch.setattr(onednn, "_gain", None)
    assert onednn_is_faster() is answer
    assert matmul.fp32_precision == before


@pytest.mark.parametrize("found", [True, False])
def test_what_was_found_is_kept_to(fresh, found):
    """A run that goes on does not measure anew."""
    assert choice() is None
    fresh.setattr(onednn, "_measure", None)
    set_choice(found)
    assert onednn_is_faster() is choice() is found
    set_choice(None)
    assert choice() is None


@pytest.mark.parametrize("name", ["AMX", "no oneDNN"])
def test_what_another_machine_found_is_not_kept_to_where_it_would_round(name):
    """A run that began on a CPU without AMX may go on on one with it, where float32 through oneDNN is bfloat16. The first
    machine's finding stays in the checkpoint."""
    with answering(MACHINES[name]):
        set_choice(True)
        assert not onednn_is_faster()
        assert not helps(nn.Linear(2, 2))
        assert choice() is True


def test_what_another_machine_found_is_not_kept_to_where_a_product_is_inexact(fresh):
    """Also a CPU that says nothing of matrix registers is asked for a product."""
    fresh.setattr(onednn, "_error", lambda *_: 1e-3)
    set_choice(True)
    assert not onednn_is_faster()


def test_small_models_are_not_worth_a_self_test(fresh):
    """From 2^20 entries in a weight; nothing is measured below."""
    fresh.setattr(onednn, "LARGE", 2**20)
    fresh.setattr(onednn, "_measure", lambda: True)
    assert not helps(nn.Sequential(nn.Linear(1023, 1024), nn.Embedding(2048, 1024)))
    assert choice() is None
    assert helps(nn.Sequential(nn.Linear(1024, 1024)))


def test_the_main_process_measures_for_all():
    """They compute shares of one thing, so all of them go the same way, whatever each would have found."""
    assert in_processes(rank_work.finding, True, False) == [True, True]
    assert in_processes(rank_work.finding, False, True) == [False, False]


@pytest.mark.skipif(not REAL.packs_bfloat16, reason="this CPU packs no bfloat16")
@pytest.mark.parametrize(
    ("rows", "inner", "width", "threads", "machine", "pieces"),
    [
        (640, 768, 768, 2, "AMX", [320, 320]),
        (700, 3072, 768, 2, "AMX", [256, 256, 188]),
        (1280, 1536, 512, 2, "AMX", [320] * 4),
        (448, 3072, 768, 2, "AMX", [448]),  # oneDNN shares it already
        (1281, 768, 768, 2, "AMX", [1281]),
        (640, 768, 3072, 2, "AMX", [640]),
        (640, 384, 1536, 2, "AMX", [640]),
        (640, 768, 768, 1, "AMX", [640]),  # nobody to share with
        (640, 768, 768, 2, "AVX-512 with bfloat16", [640]),
    ],
)
def test_rows_are_cut_where_onednn_would_leave_a_thread_idle(rows, inner, width, threads, machine, pieces, monkeypatch):
    """The cut product is the whole one, to one rounding of the largest output to bfloat16."""
    x, weight, bias = (torch.randn(shape).bfloat16() for shape in ((1, rows, inner), (width, inner), (width,)))
    exact = F.linear(x.double(), weight.double(), bias.double())
    seen, product, packed = [], torch.ops.mkldnn._linear_pointwise, pack_weight(weight)

    def watched(x, *rest):
        seen.append(len(x))
        return product(x, *rest)

    with answering(MACHINES[machine]):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", watched)
        found = multiply(x, packed, bias)
    assert seen == pieces
    assert found.shape == (1, rows, width)
    assert float((found - exact).abs().max() / exact.abs().max()) < torch.finfo(torch.bfloat16).eps


MANY_SHAPES = """
import torch
from lora_scratch.runtime.memory import resident_bytes
from lora_scratch.fast.onednn import limit_kernel_cache
limit_kernel_cache()
x, weight = torch.randn(800, 64).bfloat16(), torch.randn(64, 64).bfloat16()
for tokens in range(1, 800):
    torch.nn.functional.linear(x[:tokens], weight)
    before = resident_bytes() if tokens == 200 else before if tokens > 200 else 0
print((resident_bytes() - before) >> 20)
"""


@pytest.mark.skipif(not REAL.bf16_products, reason="bfloat16 products are not oneDNN's here")
def test_memory_stays_flat_however_many_shapes_are_multiplied():
    """600 more shapes, at most 100 MiB: bounded caches take 23, those of torch's own size 390. A process of its own, since
    the first product of this one has fixed its caches."""
    environment = {name: value for name, value in os.environ.items() if name not in CACHES}
    found = subprocess.run([sys.executable, "-c", MANY_SHAPES], env=environment, capture_output=True, text=True, check=True)
    assert int(found.stdout) < 100


def test_the_environments_own_bound_of_the_caches_is_kept(monkeypatch):
    """What the user has set, the user has set."""
    for machine, most in (("AVX-512", KERNELS), ("AMX", KERNELS_OF_MATRICES)):
        monkeypatch.setattr(os, "environ", {CACHES[0]: "7"})
        with answering(MACHINES[machine]):
            limit_kernel_cache()
        assert os.environ == {CACHES[0]: "7", CACHES[1]: str(most)}
