"""lora_scratch/arithmetic/operations.py: sums against dense ΔW, and the best lower rank against the dense SVD."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.families import logits, tiny
from support.tiny import tiny_distilbert
from torch.utils._python_dispatch import TorchDispatchMode

from lora_scratch.adapter import LoRAConfig, adapter_layers, inject, scaled
from lora_scratch.arithmetic.operations import combine, concatenate, recompress
from lora_scratch.arithmetic.update import AdapterUpdate, Factors, install_update, take_update
from lora_scratch.errors import BaseMismatchError, ConfigError
from lora_scratch.testing import move_adapter

EXACT = {"rtol": 1e-12, "atol": 1e-12}
V1 = "distilbert.transformer.layer.1.attention.v_lin"


def add(*updates, **options):
    return combine(updates, [1.0] * len(updates), **options)


def average(*updates, **options):
    return combine(updates, [1 / len(updates)] * len(updates), **options)


def random_factors(rank, out, width, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    sizes = ((rank, width), (out, rank))
    return Factors(*(torch.randn(*size, generator=generator, dtype=dtype) for size in sizes))


def dense(factors):
    return factors.lora_B @ factors.lora_A


def adapted(seed, family="distilbert", **options):
    """An adapter away from its start, and so are its heads and biases."""
    model = inject(tiny(family), LoRAConfig(**{"rank": 4, "alpha": 6, "dropout": 0.0} | options), seed=seed)
    move_adapter(model, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and "lora_" not in name:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


def update(seed, family="distilbert", **options):
    return take_update(adapted(seed, family, **options))


def deltas(model):
    """ΔW of every adapted layer as (out, in), from the layers themselves in float64."""
    flip = {"LoRAEmbedding", "LoRAConv1D"}
    found = {name: layer.double() for name, layer in adapter_layers(model).items()}
    return {n: (w.T if type(found[n]).__name__ in flip else w) for n, w in ((n, x.delta_weight()) for n, x in found.items())}


ranks = st.integers(1, 4)
factor = st.floats(-4, 4).filter(lambda w: abs(w) > 1e-3)


class TestSums:
    @given(parts=st.lists(st.tuples(ranks, factor), min_size=1, max_size=5), out=st.integers(3, 9), width=st.integers(3, 9))
    def test_concatenated_factors_have_the_sum_of_the_products(self, parts, out, width):
        """To 1e-12, also where the ranks add up to more than the layer's smaller side, to which they are cut."""
        pieces = [random_factors(rank, out, width, seed=n) for n, (rank, _) in enumerate(parts)]
        pieces = [Factors(piece.lora_A, w * piece.lora_B) for piece, (_, w) in zip(pieces, parts, strict=True)]
        whole = concatenate(pieces)
        assert whole.rank == min(sum(rank for rank, _ in parts), out, width)
        torch.testing.assert_close(dense(whole), sum(map(dense, pieces)), **EXACT)

    @given(
        strengths=st.lists(st.tuples(ranks, st.floats(0.5, 20), st.booleans(), factor), min_size=1, max_size=3),
        seed=st.integers(0, 1000),
    )
    def test_combination_is_the_weighted_sum_of_the_dense_updates(self, strengths, seed):
        """Whatever rank, alpha and rsLoRA each adapter has: signs and scalings are in the factors."""
        models = [
            adapted(seed + n, rank=rank, alpha=alpha, rslora=rslora, head_modules=[], targets=["v_lin"], layers=[1])
            for n, (rank, alpha, rslora, _) in enumerate(strengths)
        ]
        weights = [w for *_, w in strengths]
        found = combine([take_update(model) for model in models], weights)
        exact = sum(w * deltas(model)[V1] for w, model in zip(weights, models, strict=True))
        torch.testing.assert_close(dense(found.factors[V1]), exact, **EXACT)

    @pytest.mark.parametrize(
        "weights",
        [(1, 1), (1, -1), (-0.3,), (1 / 3, 1 / 3, 1 / 3)],
        ids=["sum", "difference", "multiple", "mean"],
    )
    def test_sums_differences_multiples_and_means_are_combinations(self, weights):
        """a + b, a − b, t·a, and the mean of three."""
        updates = [update(seed, head_modules=[]) for seed in range(len(weights))]
        exact = sum(w * dense(u.factors[V1]) for w, u in zip(weights, updates, strict=True))
        torch.testing.assert_close(dense(combine(updates, weights).factors[V1]), exact, **EXACT)

    @pytest.mark.parametrize(
        ("family", "options"),
        [
            ("gpt2", {"targets": ["c_attn"]}),
            ("distilbert", {"targets": ["word_embeddings", "lin1"]}),
            ("distilbert", {"init": "pissa", "rank": 3}),
            ("roberta", {"rslora": True, "rank_pattern": {"query": 2}, "alpha_pattern": {"key": 1.5}}),
        ],
        ids=["conv1d", "embedding", "pissa", "patterns"],
    )
    def test_sum_installed_in_a_model_is_the_sum_of_the_dense_updates(self, family, options):
        """For every kind of layer; what is stored is rounded to float32 once."""
        first, second = (adapted(seed, family, head_modules=[], **options) for seed in (1, 2))
        found = deltas(install_update(tiny(family), add(take_update(first), take_update(second))))
        one, two = deltas(first), deltas(second)
        assert found.keys() == one.keys()
        for name, delta in found.items():
            torch.testing.assert_close(delta, one[name] + two[name], rtol=1e-5, atol=1e-6)

    def test_modules_of_one_adapter_alone_count_as_zero_in_the_other(self):
        """q of one and v of the other: the sum adapts both, each with its own rank."""
        first, second = update(1, targets=["q_lin"], head_modules=[]), update(2, targets=["v_lin"], rank=3, head_modules=[])
        model = install_update(tiny_distilbert(), combine([first, second], [1, -2]))
        layers = adapter_layers(model)
        assert {name.rpartition(".")[2]: layer.rank for name, layer in layers.items()} == {"q_lin": 4, "v_lin": 3}
        torch.testing.assert_close(deltas(model)[V1], -2 * dense(second.factors[V1]), rtol=1e-6, atol=1e-6)

    def test_choices_of_modules_that_differ_are_replaced_by_the_names(self):
        """An exclude or a layer number of one would take modules of the other away."""
        first, second = (
            update(1, layers=[0], head_modules=[]),
            update(2, exclude=["layer.0.attention.q_lin"], head_modules=[]),
        )
        for pair in ((first, second), (second, first)):
            model = install_update(tiny_distilbert(), add(*pair))
            assert adapter_layers(model).keys() == {*first.factors, *second.factors}
        same = add(first, update(3, layers=[0], head_modules=[])).config
        assert (same.targets, same.layers) == (["q_lin", "k_lin", "v_lin"], [0])

    def test_a_sum_of_the_smaller_side_is_not_decomposed(self):
        """Rank 2 + 3 of a (5, 9) update: the very numbers, side by side."""
        first, second = random_factors(2, 5, 9), random_factors(3, 5, 9)
        assert torch.equal(concatenate([first, second]).lora_A, torch.cat([first.lora_A, second.lora_A]))

    def test_a_sum_above_the_smaller_side_is_cut_to_it_and_loads(self):
        """Rank 20 + 20 on layers of width 32."""
        first, second = (update(seed, rank=20, head_modules=[]) for seed in (1, 2))
        model = install_update(tiny_distilbert(), add(first, second))
        assert {layer.rank for layer in adapter_layers(model).values()} == {32}
        exact = dense(first.factors[V1]) + dense(second.factors[V1])
        torch.testing.assert_close(deltas(model)[V1], exact, rtol=1e-4, atol=1e-5)

    def test_an_adapter_minus_itself_is_the_base(self):
        """Exact zeros cancel to rounding, and the norm says so."""
        one = update(1, head_modules=[], bias="all")
        nothing = combine([one, one], [1, -1])
        assert all(factors.norm() < 1e-12 for factors in nothing.factors.values())
        torch.testing.assert_close(logits(install_update(tiny_distilbert(), nothing)), logits(tiny_distilbert()))


class TestBiases:
    def test_biases_add_up_by_their_change_against_the_base(self):
        """b₀ + w₁ (b₁ − b₀) + w₂ (b₂ − b₀), for weights of any sum."""
        models = [adapted(seed, bias="lora_only", head_modules=[]) for seed in (1, 2)]
        found = install_update(tiny_distilbert(), combine(list(map(take_update, models)), [2, -0.5]))
        first = tiny_distilbert().get_submodule(V1).bias.double()
        one, two = (model.get_submodule(V1).bias.double() for model in models)
        exact = first + 2 * (one - first) - 0.5 * (two - first)
        torch.testing.assert_close(found.get_submodule(V1).bias.double(), exact, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("modes", [("none", "all"), ("lora_only", "all"), ("none", "lora_only")], ids="-".join)
    def test_the_widest_bias_mode_is_the_sums(self, modes):
        """What one adapter does not train has a change of zero there."""
        models = [adapted(n, bias=mode, head_modules=[]) for n, mode in enumerate(modes)]
        found = install_update(tiny_distilbert(), add(*map(take_update, models)))
        assert found._adapter_state.config.bias == modes[1]
        if modes[0] == "none":
            assert torch.equal(found.get_submodule(V1).bias, models[1].get_submodule(V1).bias)


class TestHeads:
    def test_heads_are_averaged_where_weights_sum_to_one(self):
        """0.3 and 0.7, in float64, rounded once."""
        one, two = update(1), update(2)
        found = combine([one, two], [0.3, 0.7]).heads
        for name, tensor in found.items():
            exact = 0.3 * one.heads[name].double() + 0.7 * two.heads[name].double()
            assert torch.equal(tensor, exact.float())
        assert average(one, two, update(3)).heads.keys() == found.keys()  # three thirds are one

    def test_a_head_that_all_have_is_kept_bit_for_bit(self):
        """Whatever the weights: then it is the frozen part of both."""
        one = update(1)
        for found in (combine([one], [0.1]), combine([one, one], [0.3, 0.7]), combine([one, one], [1, -1])):
            assert all(torch.equal(tensor, one.heads[name]) for name, tensor in found.heads.items())
        with scaled(adapted(1), 0.1) as dial:
            torch.testing.assert_close(logits(install_update(tiny_distilbert(), combine([one], [0.1]))), logits(dial))

    def test_heads_that_differ_are_no_sum(self):
        """1 − 1 and 1 + 1 heads mean nothing; one can be taken."""
        one, two = update(1), update(2)
        with pytest.raises(
            ConfigError, match=r"heads: the heads differ and the weights sum to 2, .*; say whose heads to take"
        ):
            add(one, two)
        for index, owner in enumerate((one, two)):
            assert torch.equal(add(one, two, heads_from=index).heads["classifier.weight"], owner.heads["classifier.weight"])

    @pytest.mark.parametrize(
        "other", [{"head_modules": []}, {"head_modules": ["classifier"]}, {"labels": 4}], ids=["none", "part", "labels"]
    )
    def test_heads_of_other_modules_or_shapes_have_no_average(self, other):
        """Each is refused by the name of a tensor, and can be left to one adapter."""
        labels = {"labels": other.pop("labels")} if "labels" in other else {}
        model = inject(tiny("distilbert", **labels), LoRAConfig(rank=2, **other))
        two = take_update(model)
        with pytest.raises(ConfigError, match=r"heads: (pre_)?classifier\.(weight|bias) is not trained in all"):
            average(update(1), two)
        assert average(update(1), two, heads_from=0).heads.keys() == update(1).heads.keys()

    def test_counts_in_a_head_have_no_average(self):
        """A batch norm's count of batches is a whole number: kept if all have the same."""
        one = update(1)
        heads = [{"classifier.count": torch.tensor(n), "classifier.bias": torch.tensor([1.0 * n])} for n in (3, 4)]
        counted = [AdapterUpdate(one.config, one.factors, {}, head, one.base) for head in heads]
        again = replace(counted[0], heads=heads[0] | {"classifier.bias": torch.tensor([7.0])})
        found = average(counted[0], again).heads
        assert (found["classifier.count"].item(), found["classifier.bias"].item()) == (3, 5)
        with pytest.raises(ConfigError, match=r"classifier\.count holds whole numbers"):
            average(*counted)

    def test_a_head_of_one_adapter_that_another_adapts_is_refused(self):
        """Its weight can't be both trained in full and adapted."""
        one, two = update(1), update(2, targets=["pre_classifier"], head_modules=["classifier"])
        with pytest.raises(ConfigError, match=r"^pre_classifier: it is in a module that one adapter trains in full"):
            add(one, two, heads_from=0)
        assert "pre_classifier" in add(one, two, heads_from=1).factors


class TestRefusals:
    def test_adapters_of_different_bases_are_refused(self):
        """One frozen tensor is enough."""
        model = adapted(2)
        model.distilbert.embeddings.LayerNorm.weight.data[0] += 1
        with pytest.raises(BaseMismatchError, match=r"adapters 1 and 3 have different bases \(1 tensors differ, first dist"):
            combine([update(1), update(2), take_update(model)], [1, 1, 1])
        longer = tiny_distilbert(layers=3)
        longer.load_state_dict(tiny_distilbert().state_dict(), strict=False)
        deeper = take_update(inject(longer, LoRAConfig(rank=2, targets=["q_lin"], layers=[0])))
        with pytest.raises(BaseMismatchError, match=r"first distilbert\.transformer\.layer\.2"):
            add(update(1), deeper)

    def test_every_pair_of_bases_is_compared(self):
        """The first trains what the other two freeze, each at a value of its own."""
        moved = adapted(3, head_modules=[])
        moved.classifier.weight.data[0] += 1
        parts = [update(1, head_modules=["classifier"]), update(2, head_modules=[]), take_update(moved)]
        with pytest.raises(BaseMismatchError, match=r"adapters 2 and 3 have .*first classifier\.weight"):
            combine(parts, [1, 1, 1], heads_from=0)

    def test_targets_of_one_and_trained_biases_of_another_are_no_different_base(self):
        """What one trains, the other does not freeze: there is nothing to compare."""
        add(update(1, targets=["q_lin"], bias="all"), update(2, targets=["lin1"]), heads_from=0)

    def test_dora_is_refused(self):
        """Its change is no ΔW = B A."""
        with pytest.raises(ConfigError, match=r"q_lin: DoRA's change of a weight depends on the weight"):
            update(1, variant="dora")

    @pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, math.nan], [0, 1], [1, math.inf], []], ids=str)
    def test_weights_are_one_finite_number_each_other_than_zero(self, weights):
        """As many as adapters."""
        with pytest.raises(ConfigError, match="--weights"):
            combine([update(1), update(2)], weights)

    def test_a_model_without_adapter_has_no_update(self):
        """Neither has a combination of none."""
        with pytest.raises(ConfigError, match="the model has no adapter"):
            take_update(tiny_distilbert())
        with pytest.raises(ConfigError, match="0 weights for 0 adapters"):
            combine([], [])

    def test_shapes_that_differ_under_one_name_are_refused(self):
        """A base given by hand, without digests, is still looked at."""
        config = LoRAConfig(rank=2, targets=["q"], head_modules=[])
        parts = [AdapterUpdate(config, {"q": random_factors(2, 5, width)}, {}, {}, {}) for width in (4, 6)]
        with pytest.raises(ConfigError, match=r"^q: it is \(5, 4\) in one adapter and \(5, 6\) in another"):
            add(*parts)


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else [found]:
            if isinstance(each, torch.Tensor):
                self.seen.add(tuple(each.shape))
        return found


def alone(factors):
    """One module's update."""
    config = LoRAConfig(rank=factors.rank, targets=["q"], head_modules=[])
    return AdapterUpdate(config, {"q": factors}, {}, {}, {})


class TestRecompress:
    @given(rank=st.integers(1, 8), stored=st.integers(1, 8), out=st.integers(8, 12), width=st.integers(8, 12))
    def test_recompression_is_the_truncated_dense_svd(self, rank, stored, out, width):
        """Eckart and Young: as near to ΔW as the SVD of the dense matrix comes, and the residual is what that leaves."""
        factors = random_factors(stored, out, width)
        small, residuals = recompress(alone(factors), rank)
        u, s, vh = torch.linalg.svd(dense(factors), full_matrices=False)
        best = u[:, :rank] * s[:rank] @ vh[:rank]
        torch.testing.assert_close(dense(small.factors["q"]), best, rtol=1e-10, atol=1e-10)
        assert small.factors["q"].rank == min(rank, stored)
        lost = (dense(small.factors["q"]) - dense(factors)).norm() / dense(factors).norm()
        assert residuals["q"] == pytest.approx(lost.item(), abs=1e-10)
        assert lost == pytest.approx((s[rank:].norm() / s.norm()).item(), abs=1e-10)

    @given(seed=st.integers(0, 10**6))
    def test_no_other_matrix_of_that_rank_is_nearer(self, seed):
        """Nor is a small step away from it in any direction of the factors."""
        factors = random_factors(6, 9, 8, seed=seed)
        small = recompress(alone(factors), 3)[0].factors["q"]
        least = (dense(small) - dense(factors)).norm()
        step = random_factors(3, 9, 8, seed=seed + 1)
        for size in (1e-3, 0.1, 1.0):
            other = Factors(small.lora_A + size * step.lora_A, small.lora_B + size * step.lora_B)
            assert (dense(other) - dense(factors)).norm() > least

    def test_equal_adapters_recompress_to_one_without_a_loss(self):
        """a + a has twice the stored rank and no more directions than a."""
        one = update(1, head_modules=[])
        small, residuals = recompress(add(one, one), 4)
        assert max(residuals.values()) < 1e-12
        torch.testing.assert_close(dense(small.factors[V1]), 2 * dense(one.factors[V1]), **EXACT)

    def test_a_rank_that_is_not_above_stays_bit_for_bit(self):
        """There is nothing to leave out."""
        factors = random_factors(3, 9, 8)
        small, residuals = recompress(alone(factors), 3)
        assert small.factors["q"] is factors
        assert residuals == {"q": 0.0}

    def test_an_update_of_zero_stays_zero(self):
        """And nothing is divided by its norm."""
        nothing = Factors(torch.zeros(4, 8, dtype=torch.float64), torch.zeros(9, 4, dtype=torch.float64))
        small, residuals = recompress(alone(nothing), 2)
        assert residuals == {"q": 0.0}
        assert not dense(small.factors["q"]).any()

    def test_both_factors_have_the_same_size(self):
        """√S in each: training can go on from there."""
        small = recompress(alone(random_factors(6, 9, 8)), 2)[0].factors["q"]
        torch.testing.assert_close(small.lora_A @ small.lora_A.T, small.lora_B.T @ small.lora_B, **EXACT)

    def test_a_rank_below_one_is_refused(self):
        """It would be no adapter."""
        with pytest.raises(ConfigError, match="--rank: found 0; expected at least 1"):
            recompress(alone(random_factors(3, 9, 8)), 0)

    def test_no_dense_matrix_is_ever_made(self):
        """Sums, recompression and norms of a (97, 83) update: no tensor has both sides of it."""
        first, second = random_factors(5, 97, 83, seed=1), random_factors(5, 97, 83, seed=2)
        with Shapes() as shapes:
            small, _ = recompress(combine([alone(first), alone(second)], [0.5, -2]), 3)
            small.factors["q"].norm()
        assert (10, 83) in shapes.seen
        assert not [shape for shape in shapes.seen if max(math.prod(shape), 1) >= 83 * 83]

    def test_dense_check_can_fail(self):
        """The twin: the product itself is seen."""
        with Shapes() as shapes:
            dense(random_factors(5, 97, 83))
        assert (97, 83) in shapes.seen
