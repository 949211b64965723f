"""lora_scratch/study/section7.py: which trainings a replay takes. The figures: tests/scripts/study/test_section7.py."""

import pytest

from lora_scratch.errors import ConfigError, ModelError
from lora_scratch.study.section7 import Plan, Variant, flags, targets

PAPER = Plan(budget=8, ranks=(1, 2, 4, 8, 64), seeds=(0,))


def test_plan_is_the_papers():
    """Seven variants of one budget, five ranks of q and of q+v; each training once, and the second seed of the last rank."""
    assert list(map(str, PAPER.budgeted)) == ["q-8", "k-8", "v-8", "o-8", "qk-4", "qv-4", "qkvo-2"]
    assert len({len(each.kinds) * each.rank for each in PAPER.budgeted}) == 1
    assert list(map(str, PAPER.ranked[5:])) == ["qv-1", "qv-2", "qv-4", "qv-8", "qv-64"]
    trainings = PAPER.trainings()
    assert len(trainings) == len(set(trainings)) == 16
    assert [seed for variant, seed in trainings if variant == Variant("qv", 64)] == [0, 1]
    assert {seed for variant, seed in trainings if variant != Variant("qv", 64)} == {0}
    assert PAPER.amplified == [Variant("qv", 4), Variant("qv", 64)]


def test_plan_of_several_seeds_trains_every_variant_with_each():
    """Fifteen variants, two seeds, and no third."""
    plan = Plan(budget=8, ranks=(1, 2, 4, 8, 64), seeds=(3, 5))
    assert plan.pair == (3, 5)
    assert len(plan.trainings()) == 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 6}, "--budget: found 6; expected a multiple of 4"),
        ({"budget": 0}, "--budget: found 0"),
        ({"ranks": (4,)}, r"--ranks: found \[4\]; expected at least two"),
        ({"ranks": (4, 2)}, "rising"),
        ({"ranks": (0, 2)}, "--ranks"),
        ({"seeds": (1, 1)}, "--seeds: .* each once"),
    ],
)
def test_plan_refuses_what_can_not_be_compared(changes, message):
    """A budget that four can't share, one rank, a seed twice."""
    with pytest.raises(ConfigError, match=message):
        Plan(**{"budget": 8, "ranks": (1, 2), "seeds": (0,), **changes})


def test_flags_name_the_projections_of_the_family():
    """The output projection by its last two components: `output.dense` is the feed-forward's, too."""
    assert targets("bert", "qkvo") == ["query", "key", "value", "attention.output.dense"]
    expected = ["--targets", "q_lin", "v_lin", "--rank", "4", "--seed", "1"]
    assert flags("distilbert", Variant("qv", 4), 1) == expected
    with pytest.raises(ModelError, match=r"family 'gpt2'; expected one of .*bert, .*distilbert"):
        targets("gpt2", "q")
