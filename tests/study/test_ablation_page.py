"""lora_scratch/study/ablation_page.py: the figures under each picture are those of the trials."""

from lora_scratch.study.ablation import Trial
from lora_scratch.study.ablation_page import loss_map, part_bars, strength_curve
from lora_scratch.tasks import Paired


def trial(kind, group, name, accuracy, change=0.0):
    return Trial(kind, group, name, Paired(accuracy, change, 0, 0, 1.0, change, "not shown"), 1.0)


def test_losses_are_points_and_a_gain_is_negative():
    """A module without which two points are lost, and one without which half a point is won."""
    names = ("encoder.layer.0.q", "encoder.layer.1.q")
    picture = loss_map(
        [trial("without", "module", name, 0.5, change) for name, change in zip(names, (-0.02, 0.005), strict=True)],
        score="accuracy",
    )
    assert picture.table.rows == [["0", "2.0000"], ["1", "-0.5000"]]
    assert "points of accuracy lost" in picture.title


def test_bars_have_both_sides_of_every_part():
    """Without it and with only that, told apart though a layer and a projection may have one name."""
    picture = part_bars(
        [
            trial("without", "projection", "0", 0.8),
            trial("only", "projection", "0", 0.6),
            trial("without", "layer", "0", 0.7),
            trial("only", "layer", "0", 0.5),
        ],
        score="accuracy",
    )
    assert picture.table.rows == [["projection 0", "0.8000", "0.6000"], ["layer 0", "0.7000", "0.5000"]]
    assert "projection 0 0.8000 and 0.6000, layer 0 0.7000 and 0.5000" in picture.words


def test_the_strength_curve_has_every_strength():
    """In their order."""
    scores = (("0", 0.2), ("0.5", 0.6), ("1.5", 0.4))
    picture = strength_curve([trial("strength", "all", *score) for score in scores], score="Pearson")
    assert picture.table.rows == [["0", "0.2000"], ["0.5", "0.6000"], ["1.5", "0.4000"]]
    assert "Curve of the Pearson" in picture.words
    assert "from 0 to 1.5" in picture.words
