"""lora_scratch/testing: a law holds for every layer of ours and one of a stranger, and each law catches who breaks it."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from lora_scratch.layers import AdapterLayer, DoRALinear, LoRALinear
from lora_scratch.testing import LAWS, TOLERANCE, LawError, check_all, move_adapter, relative_error

X = torch.linspace(-1, 1, 30).reshape(5, 6).sin()


class Crashes(LoRALinear):
    """Only takes batches of vectors in float32."""

    def forward(self, x):
        return self.base(x) if x.dtype is torch.float32 else x.no_such_attribute


class ExtraParameter(LoRALinear):
    """Trains a tensor that no adapter file would hold."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.ones(1))


class ListsTwice(LoRALinear):
    """Would write A under two names."""

    def adapter_tensors(self):
        return super().adapter_tensors() | {"again": self.lora_A}


class HalfAdapter(LoRALinear):
    """Keeps A in bfloat16, where small steps vanish."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.lora_A = nn.Parameter(self.lora_A.to(torch.bfloat16))


class RandomB(LoRALinear):
    """Starts away from the base."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        nn.init.normal_(self.lora_B)


class DropsTheBase(LoRALinear):
    """Drops inputs of the base path too."""

    def forward(self, x):
        return super().forward(self.dropout(x))


class DropsTheBaseLater(DropsTheBase):
    """The same, handed over in evaluation mode."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.eval()


class StartsElsewhereInEval(LoRALinear):
    """Is the base while training only."""

    def forward(self, x):
        return super().forward(x) + (0.0 if self.training else 1e-3)


class ForgetsScaling(LoRALinear):
    """Adds B A without its scaling."""

    def forward(self, x):
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T


class ForgetsTheBase(LoRALinear):
    """Calls the update alone the effective weight."""

    def effective_weight(self):
        return self.delta_weight()


class HalfGradient(LoRALinear):
    """The right value with half its gradient."""

    def forward(self, x):
        y = super().forward(x)
        return 0.5 * y + 0.5 * y.detach()


class TrainsTheBase(LoRALinear):
    """Leaves the base's bias trainable."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.base.bias.requires_grad_(True)


class DeadB(LoRALinear):
    """Cuts B off from the loss."""

    def forward(self, x):
        return self.base(x) + self.scaling * (x @ self.lora_A.T @ self.lora_B.detach().T)


class DeadStart(LoRALinear):
    """Starts with A and B at zero, where neither has a gradient."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        nn.init.zeros_(self.lora_A)


class NeverDrops(LoRALinear):
    """Has a dropout and does not call it."""

    def forward(self, x):
        return self.base(x) + self.scaling * (x @ self.lora_A.to(x).T @ self.lora_B.to(x).T)


class ForwardInHalf(LoRALinear):
    """Computes the update of a float32 layer in bfloat16, and in float64 nothing shows."""

    def forward(self, x):
        if self.merged or not self.enabled or x.dtype is not torch.float32:
            return super().forward(x)
        return self.base(x) + self.scaling * (x.bfloat16() @ self.lora_A.bfloat16().T @ self.lora_B.bfloat16().T)


class RoundsTheUpdate(LoRALinear):
    """Folds an update that was rounded to bfloat16 first."""

    def merge(self):
        self.merged_weight = self.weight + self.delta_weight().to(torch.bfloat16).to(self.weight.dtype)


class IgnoresTheMerge(LoRALinear):
    """Goes on adding the update, as if nothing had been folded: right numbers, none of the speed."""

    def forward(self, x):
        y = self.base(x)
        return y + self.scaling * (x @ self.lora_A.to(x).T @ self.lora_B.to(x).T) if self.enabled else y


class NeverMerges(LoRALinear):
    """merge() does nothing."""

    def merge(self):
        """Nothing."""


class Subtracts(LoRALinear):
    """Adds to the base and takes away again, as most tools do."""

    @torch.no_grad()
    def merge(self):
        if self.merged:
            raise RuntimeError("merged")
        self.weight.add_(self.delta_weight())
        self.merged_weight = self.weight

    @torch.no_grad()
    def unmerge(self):
        super().unmerge()
        self.weight.sub_(self.delta_weight())


class FlipsSigns(LoRALinear):
    """Leaves the same function behind, and other tensors."""

    @torch.no_grad()
    def unmerge(self):
        super().unmerge()
        self.flips = getattr(self, "flips", 0) + 1
        if self.flips == 1:
            self.lora_A.neg_()
            self.lora_B.neg_()


class MergesTwice(LoRALinear):
    """Takes a second merge."""

    def merge(self):
        self.merged_weight = self.effective_weight().detach().to(self.weight.dtype)


class MergesNaN(LoRALinear):
    """Folds whatever there is."""

    @torch.no_grad()
    def merge(self):
        if self.merged:
            raise RuntimeError("merged")
        self.merged_weight = self.effective_weight().to(self.weight.dtype)


class MergesThenChecks(LoRALinear):
    """Refuses NaN when it is too late."""

    def merge(self):
        if self.merged:
            raise RuntimeError("merged")
        self.merged_weight = self.effective_weight().detach().to(self.weight.dtype)
        if not self.merged_weight.isfinite().all():
            raise RuntimeError("NaN")


class FullRank(LoRALinear):
    """Adds a little to the diagonal."""

    def delta_weight(self):
        return super().delta_weight() + 1e-3 * torch.eye(*self.weight.shape, dtype=self.lora_A.dtype)


class NoUpdate(LoRALinear):
    """Never acts."""

    def delta_weight(self):
        return 0 * super().delta_weight()


class SquaredScaling(LoRALinear):
    """Scales ΔW by the square."""

    def delta_weight(self):
        return self.scaling * super().delta_weight()


class SaturatedScaling(LoRALinear):
    """Scales the output by no more than 1."""

    def forward(self, x):
        return self.base(x) + min(self.scaling, 1.0) * (x @ self.lora_A.to(x).T @ self.lora_B.to(x).T)


class WidensTheOutput(LoRALinear):
    """Answers in float32 whatever was asked."""

    def forward(self, x):
        return super().forward(x).float()


class DeltaUnderAutocast(LoRALinear):
    """Lets autocast round ΔW."""

    def delta_weight(self):
        return self.scaling * (self.lora_B @ self.lora_A)

    def effective_weight(self):
        with torch.autocast("cpu", enabled=False):
            return self.weight + self.delta_weight()


class EffectiveUnderAutocast(LoRALinear):
    """Lets autocast round the update in the effective weight."""

    def effective_weight(self):
        return self.weight + self.scaling * (self.lora_B @ self.lora_A)


class WidensTheMergedOutput(LoRALinear):
    """Answers in float32 once merged."""

    def forward(self, x):
        return super().forward(x).float() if self.merged else super().forward(x)


class MergesInEval(LoRALinear):
    """loralib's habit: eval() merges."""

    def train(self, mode=True):
        if mode and self.merged:
            self.unmerge()
        elif not mode and not self.merged:
            self.merge()
        return super().train(mode)


class CountsForwards(LoRALinear):
    """Writes to A while computing."""

    def forward(self, x):
        with torch.no_grad():
            self.lora_A.mul_(1.001)
        return super().forward(x)


class KeepsActing(LoRALinear):
    """Ignores `enabled` when merged."""

    def forward(self, x):
        if self.merged:
            return nn.functional.linear(x, self.merged_weight, self.bias)
        return super().forward(x)


BROKEN = [
    ("adapter_tensors", ExtraParameter),
    ("adapter_tensors", HalfAdapter),
    ("adapter_tensors", ListsTwice),
    ("zero_start", RandomB),
    ("zero_start", DropsTheBase),
    ("zero_start", DropsTheBaseLater),
    ("zero_start", StartsElsewhereInEval),
    ("dense_formula", ForgetsScaling),
    ("dense_formula", ForgetsTheBase),
    ("gradients", HalfGradient),
    ("base_frozen", TrainsTheBase),
    ("base_frozen", DeadB),
    ("start_learns", DeadStart),
    ("dropout_acts", NeverDrops),
    ("merge_equals_forward", RoundsTheUpdate),
    ("merge_equals_forward", ForwardInHalf),
    ("merge_equals_forward", NeverMerges),
    ("merge_equals_forward", IgnoresTheMerge),
    ("unmerge_restores", Subtracts),
    ("unmerge_restores", MergesTwice),
    ("unmerge_restores", FlipsSigns),
    ("merge_refuses_nonfinite", MergesNaN),
    ("merge_refuses_nonfinite", MergesThenChecks),
    ("low_rank", FullRank),
    ("low_rank", NoUpdate),
    ("linear_in_scaling", SquaredScaling),
    ("linear_in_scaling", SaturatedScaling),
    ("dtypes_and_shapes", WidensTheOutput),
    ("dtypes_and_shapes", Crashes),
    ("dtypes_and_shapes", WidensTheMergedOutput),
    ("dtypes_and_shapes", EffectiveUnderAutocast),
    ("dtypes_and_shapes", DeltaUnderAutocast),
    ("modes_leave_weights", MergesInEval),
    ("modes_leave_weights", CountsForwards),
    ("disabled_is_base", KeepsActing),
]


def of(cls, **options):
    """A factory of layers 6 -> 4 with the same base each time; alpha differs from rank, in from out."""

    def make():
        torch.manual_seed(3)
        return cls(nn.Linear(6, 4), rank=2, alpha=3, **options)

    return make


@pytest.mark.parametrize(("law", "cls"), BROKEN, ids=[f"{law}-{cls.__name__}" for law, cls in BROKEN])
def test_law_catches_the_layer_that_breaks_it(law, cls):
    """The twin of every law: a layer broken on purpose fails it, by the law's name, and fails check_all too."""
    make = of(cls, dropout=0.3)
    with pytest.raises(LawError, match=f"^{law}: .*; expected ") as caught:
        LAWS[law](make, X)
    assert caught.value.where == law
    assert ("Error: " in caught.value.found) is (cls is Crashes)
    assert caught.value.expected
    with pytest.raises(AssertionError):
        check_all(make, X)


def test_every_law_has_a_layer_that_breaks_it():
    """A law without a twin could be one that always holds."""
    assert {law for law, _ in BROKEN} == set(LAWS)


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("law", LAWS)
def test_law_holds_for_lora(law, rank):
    """Each law by itself, as a reader would call it, up to the smaller side of the layer."""
    LAWS[law](lambda: LoRALinear(nn.Linear(6, 4), rank=rank, alpha=3, dropout=0.3), X)


def test_constant_of_a_gradient_has_to_be_named():
    """DoRA's gradient takes the row norm for a constant (section 4.3): that is said aloud, or it breaks the law."""
    rules = {"skip": ["low_rank", "linear_in_scaling"]}
    check_all(of(DoRALinear), X, **rules, constants=["row_norm"])
    with pytest.raises(LawError, match=r"^gradients: .*expected those of finite differences"):
        check_all(of(DoRALinear), X, **rules)
    check_all(of(DoRALinear), X, skip=["low_rank", "linear_in_scaling", "gradients"])


class RowGain(AdapterLayer):
    """A stranger's layer, y = base(x) + v · x Wᵀ, with one trained number for each output."""

    def __init__(self, linear):
        super().__init__(linear)
        self.rank = self.alpha = self.scaling = 1
        self.gain = nn.Parameter(torch.zeros(linear.out_features))

    def forward(self, x):
        if self.merged_weight is not None and self.enabled:
            return nn.functional.linear(x, self.merged_weight, self.bias)
        y = self.base(x)
        return y + self.gain.to(y.dtype) * nn.functional.linear(x, self.weight) if self.enabled else y

    def delta_weight(self):
        return self.gain[:, None] * self.weight

    def effective_weight(self):
        return self.weight + self.delta_weight()

    def adapter_tensors(self):
        return {"gain": self.gain}


def test_check_all_takes_a_layer_that_a_user_wrote():
    """A layer that is no LoRA obeys all laws but those that it says are not its own."""
    check_all(lambda: RowGain(nn.Linear(6, 4)), X, skip=["low_rank", "linear_in_scaling"])
    with pytest.raises(LawError, match=r"^low_rank: delta_weight\(\) has rank 4; expected 1 to 1"):
        check_all(lambda: RowGain(nn.Linear(6, 4)), X)


def test_check_all_refuses_to_skip_an_unknown_law():
    """A typo in `skip` must not look like an exemption."""
    with pytest.raises(ValueError, match="no such law: zero_star; there are zero_start, dense_formula"):
        check_all(of(LoRALinear), X, skip=["zero_star"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": "low_rank"}, "found the word 'low_rank'; expected a list of names"),
        ({"frozen": ["lora_A"]}, "no such adapter tensor: lora_A; there are lora_A.weight, lora_B.weight"),
        ({"constants": ["row_nrom"]}, "no such method: row_nrom; there are "),
    ],
)
def test_check_all_refuses_a_name_that_exempts_nothing(options, message):
    """Nor may one that names no tensor, or no method."""
    with pytest.raises(ValueError, match=message):
        check_all(of(LoRALinear), X, **options)


def test_check_all_wants_a_new_layer_with_a_new_base_at_each_call():
    """The laws move layers, cast and merge them: the next one would see what is left."""
    layer, base = of(LoRALinear)(), nn.Linear(6, 4)
    for make, found in (
        (layer, "make is a layer"),
        (lambda: layer, "make gave the same layer"),
        (lambda: LoRALinear(base, rank=2, alpha=3), "the same base, twice"),
        (lambda: nn.Linear(6, 4), "make gave a Linear; expected an AdapterLayer"),
    ):
        with pytest.raises(ValueError, match=found):
            check_all(make, X)


def test_laws_leave_the_global_random_state_alone():
    """A check between two draws changes neither."""
    make, state = of(LoRALinear, dropout=0.5), torch.get_rng_state()
    layer = make()
    torch.set_rng_state(state)
    for name in ("zero_start", "dropout_acts", "modes_leave_weights"):
        LAWS[name](lambda: layer, X)
    assert torch.equal(torch.get_rng_state(), state)


def test_move_adapter_moves_every_tensor_of_a_model_the_same_way_each_time():
    """Off-init is reproducible, and touches no base tensor."""
    first, second = (nn.Sequential(of(LoRALinear)(), nn.Linear(4, 4)) for _ in range(2))
    second.load_state_dict(first.state_dict())
    start = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    move_adapter(first)
    move_adapter(second)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
        assert torch.equal(tensor, start[name]) is (".lora_" not in f".{name}"), name


@pytest.mark.parametrize(
    ("found", "exact", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 1.0], [1.0, -1.0], 2.0),
        ([2.0, 2.0], [2.0, -2.0], 2.0),
        ([0.5], [0.0], 0.5),
        ([], [], 0.0),
        ([1.0], [1.0, 1.0], float("inf")),
        ([float("nan")], [1.0], float("inf")),
        ([float("inf")], [1.0], float("inf")),
    ],
)
def test_relative_error_is_the_worst_over_the_size(found, exact, error):
    """max |found - exact| / rms(exact); what can't be compared is infinitely wrong."""
    assert relative_error(torch.tensor(found), torch.tensor(exact)) == error


def test_tolerances_are_those_of_the_house():
    """STYLE's figures: loosening one is a decision, not an edit."""
    assert {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 8e-3, torch.bfloat16: 6e-2} == TOLERANCE


def test_testing_needs_no_test_framework():
    """`lora_scratch.testing` works where pytest and hypothesis are not installed."""
    code = "import sys; sys.modules.update(pytest=None, hypothesis=None); import lora_scratch.testing"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
