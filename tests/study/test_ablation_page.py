"""lora_scratch/study/ablation_page.py: the figures under each picture are those of the trials."""

from lora_scratch.study.ablation_page import dial, groupwise, losses


def trial(what, group, name, accuracy, change=0.0):
    """As `asdict` gives it."""
    return {"what": what, "group": group, "name": name, "found": {"accuracy": accuracy, "change": change}, "p_holm": 1.0}


def test_losses_are_points_and_a_gain_is_negative():
    """A module without which two points are lost, and one without which half a point is won."""
    names = ("encoder.layer.0.q", "encoder.layer.1.q")
    found = losses(
        [trial("without", "module", name, 0.5, change) for name, change in zip(names, (-0.02, 0.005), strict=True)]
    )
    assert found.table.rows == [["0", "2.0000"], ["1", "-0.5000"]]
    assert "points of accuracy lost" in found.title


def test_groupwise_has_both_sides_of_every_part():
    """Without it and with only that, told apart though a layer and a projection may have one name."""
    found = groupwise(
        [
            trial("without", "projection", "0", 0.8),
            trial("only", "projection", "0", 0.6),
            trial("without", "layer", "0", 0.7),
            trial("only", "layer", "0", 0.5),
        ]
    )
    assert found.table.rows == [["projection 0", "0.8000", "0.6000"], ["layer 0", "0.7000", "0.5000"]]
    assert "projection 0 0.8000 and 0.6000, layer 0 0.7000 and 0.5000" in found.words


def test_dial_has_every_strength():
    """In their order."""
    found = dial([trial("strength", "all", name, accuracy) for name, accuracy in (("0", 0.2), ("0.5", 0.6), ("1.5", 0.4))])
    assert found.table.rows == [["0", "0.2000"], ["0.5", "0.6000"], ["1.5", "0.4000"]]
    assert "from 0 to 1.5" in found.words
