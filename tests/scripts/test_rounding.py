"""scripts/rounding.py: three tables, printed and written."""

import json

import pytest
import rounding
from command_line import call


def test_the_script_prints_what_it_writes(job, tmp_path, capsys):
    """Three tables of a model's own weights; the same seed gives the same figures."""
    places = [tmp_path / "1.json", tmp_path / "2.json"]
    for place in places:
        assert call(rounding, "--model", job.base, "--rank", 4, "--json", place) == 0
    printed, record = capsys.readouterr().out, json.loads(places[0].read_text(encoding="utf-8"))
    assert places[0].read_text(encoding="utf-8") == places[1].read_text(encoding="utf-8")
    row = record["lost_updates"][2]
    cells = [row["dtype"], row["base_dtype"], "0.001", *(f"{row[name]:.1%}" for name in ("survived", "error", "unchanged"))]
    assert f"| {' | '.join(cells)} |" in printed
    assert len(record["drift"]) == 9
    assert {row["rank"] for row in record["output_errors"]} == {4, 32}
    assert all(f"{row['subtracted']:.2%}" in printed for row in record["drift"])
    assert all(f"{row['merged']:.1e}" in printed for row in record["output_errors"])


@pytest.mark.parametrize("rank", [0, 33])
def test_a_rank_that_no_weight_can_have_is_refused(job, capsys, rank):
    """The tiny model's are 32 wide."""
    assert call(rounding, "--model", job.base, "--rank", rank) == 1
    assert f"--rank: found {rank}; expected 1 to 32, the smallest side of the weights" in capsys.readouterr().err
