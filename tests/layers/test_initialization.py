"""lora_scratch/layers/initialization.py: where A and B start, and that the layer always starts as the base."""

import pytest
import torch
from support.tiny import tiny_conv1d
from torch import nn

from lora_scratch.layers import (
    METHODS,
    OFFSET_METHODS,
    DoRALinear,
    LoRAConv1D,
    LoRAEmbedding,
    LoRALinear,
    NoRandomNumbers,
    OffsetLoRALinear,
    PrincipalInputs,
    initialize,
    lora_scaling,
    stored_alpha,
)

LAYERS = {
    "linear": lambda **options: LoRALinear(nn.Linear(12, 8), 4, 6, **options),
    "conv1d": lambda **options: LoRAConv1D(tiny_conv1d(8, 12), 4, 6, **options),
    "dora": lambda **options: DoRALinear(nn.Linear(12, 8), 4, 6, **options),
    "offset": lambda **options: OffsetLoRALinear(nn.Linear(12, 8), 4, 6, **options),
    "offset_conv1d": lambda **options: OffsetLoRALinear(tiny_conv1d(8, 12), 4, 6, **options),
}
# pissa and olora are what OffsetLoRALinear is for
PAIRS = [(kind, method) for kind in LAYERS for method in METHODS if (method in OFFSET_METHODS) == kind.startswith("offset")]


@pytest.mark.parametrize(("kind", "method"), PAIRS)
@pytest.mark.parametrize("rslora", [False, True])
def test_every_initialisation_starts_from_exactly_the_base(kind, method, rslora):
    """Bit for bit, in float32 and under autocast, in training with dropout too; and something is there to learn from."""
    layer = LAYERS[kind](rslora=rslora, dropout=0.3).train()
    initialize(layer, method, torch.Generator().manual_seed(1))
    x = torch.randn(5, 12)
    assert torch.equal(layer(x), layer.base(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer.base(x))
    layer(x).square().sum().backward()
    assert any(p.grad.any() for p in layer.adapter_tensors().values())


@pytest.mark.parametrize("method", ["gaussian", "orthogonal", "peft"])
def test_random_start_comes_from_the_generator_alone(method):
    """One seed, one start; torch's global state is not drawn from."""
    layers, state = [LAYERS["linear"]() for _ in range(3)], torch.get_rng_state()
    for layer, seed in zip(layers, (1, 1, 2), strict=True):
        initialize(layer, method, torch.Generator().manual_seed(seed))
    assert torch.equal(torch.get_rng_state(), state)
    first, same, other = ([*layer.adapter_tensors().values()] for layer in layers)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first[0], other[0])


def test_gaussian_has_a_deviation_of_one_over_rank():
    """PEFT's reading of the paper's random Gaussian."""
    layer = LoRALinear(nn.Linear(4000, 8), 4)
    initialize(layer, "gaussian", torch.Generator().manual_seed(1))
    assert layer.lora_A.std().item() == pytest.approx(1 / 4, rel=0.05)
    assert not layer.lora_B.any()


@pytest.mark.parametrize("kind", ["linear", "conv1d", "dora"])
def test_peft_start_is_the_third_draw_from_the_seed(kind):
    """PEFT builds an nn.Linear for A and one for B, which draw a weight each, and then draws A again; nothing else moves."""
    layer, generator, state = LAYERS[kind](), torch.Generator().manual_seed(7), torch.get_rng_state()
    initialize(layer, "peft", generator)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    lora_A, _ = nn.Linear(12, 4, bias=False), nn.Linear(4, 8, bias=False)
    lora_A.reset_parameters()
    assert torch.equal(layer.lora_A, lora_A.weight)
    assert torch.equal(generator.get_state(), torch.get_rng_state())
    assert not layer.lora_B.any()


def test_peft_start_of_an_embedding_is_the_third_draw_from_the_seed():
    """There A, B and B again are drawn, all normal; A stays zero."""
    layer, generator, state = LoRAEmbedding(nn.Embedding(9, 4), 2), torch.Generator().manual_seed(7), torch.get_rng_state()
    initialize(layer, "peft", generator)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    _, _, lora_B = torch.randn(2, 9), torch.randn(4, 2), torch.randn(4, 2)
    assert torch.equal(layer.lora_embedding_B, lora_B)
    assert torch.equal(generator.get_state(), torch.get_rng_state())
    assert not layer.lora_embedding_A.any()


def test_orthogonal_leaves_neither_factor_zero_and_both_with_a_gradient():
    """B A is exactly zero although neither is: they live on different directions of rank space."""
    layer = LAYERS["linear"]()
    initialize(layer, "orthogonal")
    assert layer.lora_A.any()
    assert layer.lora_B.any()
    assert not (layer.lora_B @ layer.lora_A).any()
    layer(torch.randn(5, 12)).square().sum().backward()
    assert layer.lora_A.grad.any()
    assert layer.lora_B.grad.any()


def test_orthogonal_shares_out_the_directions_in_turn():
    """Even rows of A and odd columns of B are normal/10, all of them; the others are zero."""
    layer = LoRALinear(nn.Linear(2000, 1500), 6)
    initialize(layer, "orthogonal", torch.Generator().manual_seed(1))
    for directions, zeros in ((layer.lora_A[0::2], layer.lora_A[1::2]), (layer.lora_B.T[1::2], layer.lora_B.T[0::2])):
        assert directions.std(dim=1).tolist() == pytest.approx([0.1] * 3, rel=0.08)
        assert not zeros.any()


def test_orthogonal_refuses_an_odd_rank():
    """The directions are shared out in pairs."""
    with pytest.raises(ValueError, match="even rank"):
        initialize(LoRALinear(nn.Linear(12, 8), 3), "orthogonal")


@pytest.mark.parametrize("kind", ["offset", "offset_conv1d"])
def test_pissa_starts_at_the_best_approximation_of_the_weight(kind):
    """scaling · B₀ A₀ = U_r S_r V_rᵀ, split evenly by the root."""
    layer = LAYERS[kind]()
    initialize(layer, "pissa")
    weight = layer.weight if kind == "offset" else layer.weight.T
    u, s, v = torch.linalg.svd(weight)
    torch.testing.assert_close(layer.scaling * layer.lora_B @ layer.lora_A, u[:, :4] * s[:4] @ v[:4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.lora_B.norm(dim=0), layer.lora_A.norm(dim=1))


def test_olora_starts_at_the_first_part_of_the_qr_decomposition():
    """B₀ has orthonormal columns and B₀ A₀ holds the first rank columns of W."""
    layer = LAYERS["offset"]()
    initialize(layer, "olora")
    torch.testing.assert_close(layer.lora_B.T @ layer.lora_B, torch.eye(4), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((layer.lora_B @ layer.lora_A)[:, :4], layer.weight[:, :4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", OFFSET_METHODS)
def test_pissa_and_olora_never_touch_the_base(method):
    """The same object with the same bits, unlike PEFT's."""
    layer = LAYERS["offset"]()
    weight, before = layer.weight, layer.weight.clone()
    initialize(layer, method)
    assert layer.weight is weight
    assert torch.equal(weight, before)


@pytest.mark.parametrize("rslora", [False, True])
def test_stored_alpha_keeps_the_scaling_at_twice_the_rank(rslora):
    """alpha/r = alpha'/2r, alpha/√r = alpha'/√2r."""
    alpha = stored_alpha(6.0, rslora=rslora)
    assert lora_scaling(alpha, 8, rslora=rslora) == pytest.approx(lora_scaling(6.0, 4, rslora=rslora), rel=1e-15)


def test_initialise_refuses_what_it_does_not_know():
    """A typo, and methods that a layer can't have, are named."""
    with pytest.raises(ValueError, match=r"'pisa'; expected one of default, peft, gaussian, "):
        initialize(LAYERS["linear"](), "pisa")
    with pytest.raises(ValueError, match="need an OffsetLoRALinear, not a LoRALinear"):
        initialize(LAYERS["linear"](), "pissa")
    with pytest.raises(ValueError, match="on an embedding"):
        initialize(LoRAEmbedding(nn.Embedding(9, 4), 2), "orthogonal")


def test_embedding_keeps_its_own_start_with_gaussian():
    """As in PEFT, where gaussian concerns linear layers alone."""
    layer = LoRAEmbedding(nn.Embedding(9, 4), 2)
    before = layer.lora_embedding_B.clone()
    initialize(layer, "gaussian")
    assert not layer.lora_embedding_A.any()
    assert torch.equal(layer.lora_embedding_B, before)


class TestPrincipalInputs:
    def test_directions_are_the_right_singular_vectors_of_all_inputs(self):
        """Streamed in uneven pieces or at once: the same up to sign."""
        inputs = torch.randn(60, 10) * torch.linspace(3, 0.5, 10) @ torch.linalg.qr(torch.randn(10, 10)).Q
        principal = PrincipalInputs(3, kept=10)
        for piece in inputs.split(7):
            principal.add(piece.reshape(1, -1, 10))
        expected = torch.linalg.svd(inputs).Vh[:3]
        torch.testing.assert_close((principal.directions() @ expected.T).abs(), torch.eye(3), rtol=1e-4, atol=1e-4)

    def test_directions_are_close_when_most_are_cut(self):
        """With a falling spectrum, four times the rank is enough for the first ones."""
        spectrum = 0.7 ** torch.arange(40)
        inputs = torch.randn(400, 40) * spectrum
        principal = PrincipalInputs(2)
        for piece in inputs.split(16):
            principal.add(piece)
        expected = torch.linalg.svd(inputs).Vh[:2]
        assert torch.linalg.svdvals(principal.directions() @ expected.T).min() > 0.999

    def test_memory_does_not_grow_with_the_inputs(self):
        """What is carried along is (kept, in) however much has been seen."""
        principal = PrincipalInputs(2)
        for _ in range(5):
            principal.add(torch.randn(100, 30))
        assert principal._sketch.shape == (8, 30)

    @pytest.mark.parametrize("size", [1e-5, 1.0, 1e5])
    def test_directions_do_not_depend_on_the_size_of_the_inputs(self, size):
        """Three of them span three directions, exactly as many as are asked for; a fourth is noise at any size."""
        inputs = torch.randn(3, 10)
        principal, four = PrincipalInputs(3), PrincipalInputs(4)
        for each in (principal, four):
            each.add(size * torch.cat([inputs, inputs]))
        rows = torch.linalg.qr(inputs.T).Q.T
        assert torch.linalg.svdvals(principal.directions() @ rows.T).min() > 0.999
        with pytest.raises(ValueError, match="span 3 directions; expected at least the rank, 4"):
            four.directions()

    @pytest.mark.parametrize("inputs", [None, torch.ones(50, 12), torch.zeros(3, 12)])
    def test_directions_refuses_inputs_that_span_too_little(self, inputs):
        """Nothing, or one direction many times, can't fill four rows of A."""
        principal = PrincipalInputs(4)
        if inputs is not None:
            principal.add(inputs)
        with pytest.raises(ValueError, match=r"span [01] directions; expected at least the rank, 4"):
            principal.directions()


def test_no_random_numbers_leaves_the_random_state_alone():
    """A layer is built with its exact parts as they are and without a single draw."""
    linear, table = nn.Linear(12, 8), nn.Embedding(9, 4)
    before = torch.get_rng_state()
    with NoRandomNumbers():
        layer, embedding = DoRALinear(linear, 4), LoRAEmbedding(table, 2)
        assert torch.ones(2, dtype=torch.float64).dtype is torch.float64  # other calls keep their options
    assert torch.equal(torch.get_rng_state(), before)
    assert not layer.lora_B.any()
    assert not embedding.lora_embedding_A.any()
    assert torch.equal(layer.magnitude, linear.weight.square().sum(1).sqrt())
    LoRALinear(linear, 4)
    assert not torch.equal(torch.get_rng_state(), before)
