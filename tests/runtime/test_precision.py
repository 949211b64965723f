"""lora_scratch/runtime/precision.py and device.py: one dtype, one autocast, one scaler."""

import pytest
import torch
from support.machines import MACHINES, answering

from lora_scratch.errors import ConfigError
from lora_scratch.runtime.device import resolve_device, use_threads
from lora_scratch.runtime.precision import DTYPES, ISA_LIMITS, Precision, resolve_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", DTYPES)
def test_products_run_in_the_named_dtype_and_only_float16_is_scaled(name):
    """One path: autocast does nothing in fp32, the scaler nothing but in fp16."""
    precision = resolve_precision(name, CPU)
    with precision.autocast():
        assert torch.nn.functional.linear(torch.ones(2, 3), torch.ones(4, 3)).dtype is DTYPES[name]
    assert precision.name == name
    assert precision.scaler().is_enabled() is (name == "fp16")


def test_disabled_scaler_hands_the_loss_through():
    """Bit for bit the same object, so fp32 and bf16 pay nothing for the common path."""
    loss = torch.tensor(0.1)
    assert resolve_precision("bf16", CPU).scaler().scale(loss) is loss


AUTO = {
    "AMX": "bf16",
    "AVX-512 with bfloat16": "bf16",
    "AVX-512": "fp32",
    "AVX2": "fp32",
    "slow oneDNN": "bf16",
    "no packing": "bf16",
    "no oneDNN": "fp32",
}


@pytest.mark.parametrize("name", MACHINES)
def test_auto_is_bf16_where_the_cpu_multiplies_it_fast_and_fp32_elsewhere(name, monkeypatch):
    """bf16 in emulation is slower than fp32, so it is not chosen for being possible."""
    for limit in ISA_LIMITS:
        monkeypatch.delenv(limit, raising=False)
    with answering(MACHINES[name]):
        assert resolve_precision("auto", CPU) == Precision(DTYPES[AUTO[name]], CPU)


@pytest.mark.parametrize("variable", ISA_LIMITS)
@pytest.mark.parametrize(("limit", "expected"), [("avx2", "fp32"), ("AVX512_CORE", "fp32"), ("AVX512_CORE_BF16", "bf16")])
def test_auto_is_fp32_where_onednn_is_kept_from_the_bfloat16_instructions(variable, limit, expected, monkeypatch):
    """The CPU has them, but the environment limits oneDNN to older ones, with which bf16 takes three times as long."""
    for name in ISA_LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, limit)
    with answering(MACHINES["AVX-512 with bfloat16"]):
        assert resolve_precision("auto", CPU).name == expected


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_on_cuda_is_bf16_from_ampere_on_and_fp16_before(monkeypatch, native, expected):
    """Older GPUs emulate bf16: fp16 with the scaler is faster there."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert resolve_precision("auto", torch.device("cuda")).dtype is expected


def test_unknown_precision_is_refused_with_the_known_ones():
    """A typo does not become float32."""
    with pytest.raises(ConfigError, match="--precision: unknown precision 'bf6'; expected auto, fp32, bf16, fp16"):
        resolve_precision("bf6", CPU)


def test_auto_device_is_cuda_where_there_is_one(monkeypatch):
    """And the CPU elsewhere."""
    monkeypatch.setattr(torch, "empty", lambda *size, device: device)  # this machine need not have the device
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert resolve_device("auto").type == expected


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:x", "", "meta", "mps", "xpu:0", "9" * 40, "cpu\n"])
def test_device_that_is_not_here_is_refused(name):
    """In words of the flag, not torch's."""
    with pytest.raises(ConfigError, match=r"--device: no device .* here; expected auto, cpu or cuda"):
        resolve_device(name)


def test_use_threads_sets_the_number_and_zero_leaves_it():
    """0 is torch's own choice."""
    before = torch.get_num_threads()
    try:
        use_threads(before + 1)
        assert torch.get_num_threads() == before + 1
        use_threads(0)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
