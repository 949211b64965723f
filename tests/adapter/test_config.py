"""lora_scratch/adapter/config.py: a setting that can't be honoured is refused before a model is touched."""

import math
from dataclasses import fields

import pytest

from lora_scratch.adapter import LoRAConfig
from lora_scratch.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "--rank: found 0; expected a whole number from 1"),
        ({"rank": -8}, "--rank: found -8; expected a whole number from 1"),
        ({"rank": 8.0}, r"--rank: found 8\.0; expected a whole number"),
        ({"rank": "8"}, "--rank: found '8'; expected a whole number"),
        ({"rank": True}, "--rank: found True; expected a whole number"),
        ({"alpha": 0}, "--alpha: found 0; expected a number from 1e-30 to"),
        ({"alpha": 1e300}, r"--alpha: found 1e\+300; expected a number from 1e-30 to 1e\+30"),
        ({"alpha": 1e-300}, "--alpha: found 1e-300; expected a number from 1e-30"),
        ({"alpha_pattern": {"q_lin": 1e300}}, r"alpha_pattern\['q_lin'\]: found 1e\+300; expected a number from 1e-30"),
        ({"alpha": -1.5}, r"--alpha: found -1\.5; expected a number from"),
        ({"alpha": math.inf}, "--alpha: found inf; expected a number from"),
        ({"alpha": math.nan}, "--alpha: found nan; expected a number from"),
        ({"dropout": 1.0}, r"--dropout: found 1\.0; expected a number from 0 to below 1"),
        ({"dropout": -0.1}, r"--dropout: found -0\.1"),
        ({"dropout": math.nan}, "--dropout: found nan"),
        ({"targets": []}, r"--targets: found \[\]; expected at least one name"),
    ],
    ids=str,
)
def test_value_out_of_bounds_is_refused_with_its_flag_and_its_bounds(options, message):
    """PAINS 44, and DESIGN's LoRAConfig: one line that a person can act on."""
    with pytest.raises(ConfigError, match=message):
        LoRAConfig(**options)


def test_defaults_are_those_of_the_real_job():
    """rank 8, alpha 16, dropout 0.1, targets and head by the model's family."""
    config = LoRAConfig()
    assert (config.rank, config.alpha, config.dropout, config.rslora) == (8, 16.0, 0.1, False)
    assert config.targets is None
    assert config.head_modules is None


@pytest.mark.parametrize("field", fields(LoRAConfig), ids=lambda field: field.name)
def test_every_field_carries_its_own_help(field):
    """The scripts turn fields into flags."""
    assert len(field.metadata["help"]) > 10


def test_two_configs_share_no_mutable_default():
    """Changing one leaves the next one alone."""
    first = LoRAConfig()
    for field in fields(first):
        value = getattr(first, field.name)
        if isinstance(value, dict | list):
            assert value is not getattr(LoRAConfig(), field.name)
