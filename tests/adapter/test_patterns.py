"""Rank and alpha by pattern, targets by regular expression, excluded modules and layer subsets: PEFT's rules, checked."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.tiny import tiny_distilbert
from torch import nn

from lora_scratch.adapter import LoRAConfig, adapter_layers, dry_run, inject
from lora_scratch.adapter.config import alpha_of, rank_of
from lora_scratch.adapter.targets import find_targets, layer_index
from lora_scratch.errors import ConfigError, TargetError


def names(**options):
    """The modules that would be adapted in a DistilBERT of two layers."""
    return [layer.name for layer in dry_run(tiny_distilbert(), LoRAConfig(rank=4, **options)).layers]


def peft_names(**options):
    """The modules that PEFT adapts with the same settings."""
    model = get_peft_model(tiny_distilbert(), LoraConfig(r=4, **options))
    return [
        n.removeprefix("base_model.model.") for n, m in model.named_modules() if hasattr(m, "base_layer") and hasattr(m, "r")
    ]


class TestRankAndAlpha:
    def test_first_key_that_fits_the_end_of_the_name_wins(self):
        """Keys are expressions over whole components: PEFT's look-up."""
        config = LoRAConfig(
            rank=8, rank_pattern={"q_lin": 2, "layer.0.*": 4}, alpha_pattern={r"layer\.\d+\.attention\.k_lin": 3.0}
        )
        assert rank_of(config, "transformer.layer.0.attention.q_lin") == 2
        assert rank_of(config, "transformer.layer.0.attention.k_lin") == 4
        assert rank_of(config, "transformer.layer.1.attention.k_lin") == 8
        assert rank_of(config, "transformer.layer.1.attention.seq_lin") == 8
        assert alpha_of(config, "transformer.layer.1.attention.k_lin") == 3.0
        assert alpha_of(config, "k_lin") == 16.0

    def test_ranks_and_scalings_are_pefts(self):
        """Every layer has PEFT's rank and scaling, rsLoRA included."""
        ranks, alphas = {"layer.0.attention.q_lin": 2, "k_lin": 3}, {"k_lin": 5, "layer.1.*": 7}
        options = {"rank_pattern": ranks, "alpha_pattern": alphas}
        model = inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=6, targets=["q_lin", "k_lin"], rslora=True, **options))
        peer = get_peft_model(
            tiny_distilbert(), LoraConfig(r=4, lora_alpha=6, target_modules=["q_lin", "k_lin"], use_rslora=True, **options)
        )
        for name, layer in adapter_layers(model).items():
            theirs = peer.get_submodule(f"base_model.model.{name}")
            assert (layer.rank, layer.scaling) == (theirs.r["default"], theirs.scaling["default"])

    @pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
    def test_pattern_that_fits_no_target_is_refused(self, field):
        """A typo would leave the default in place, silently."""
        with pytest.raises(TargetError, match=rf"{field}: 'qlin' fits no adapted module; nearest: .*q_lin"):
            dry_run(tiny_distilbert(), LoRAConfig(rank=4, targets=["q_lin"], **{field: {"qlin": 2}}))

    def test_rank_of_a_pattern_is_checked_against_the_layer(self):
        """As the common rank is."""
        with pytest.raises(ConfigError, match=r"rank 33 on .*q_lin"):
            dry_run(tiny_distilbert(), LoRAConfig(rank=4, targets=["q_lin"], rank_pattern={"q_lin": 33}))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"rank_pattern": {"q": 0}}, r"rank_pattern\['q'\]: found 0"),
            ({"rank_pattern": {"q": 2.0}}, r"rank_pattern\['q'\]: found 2.0"),
            ({"rank_pattern": {"q": True}}, r"rank_pattern\['q'\]: found True"),
            ({"alpha_pattern": {"q": 0}}, r"alpha_pattern\['q'\]: found 0"),
            ({"alpha_pattern": {"q": float("inf")}}, r"alpha_pattern\['q'\]: found inf"),
            ({"rank_pattern": {"(q": 2}}, "no regular expression"),
        ],
    )
    def test_pattern_values_are_checked_before_a_model_is_touched(self, options, message):
        """Whole ranks from 1, finite alphas above 0, keys that compile."""
        with pytest.raises(ConfigError, match=message):
            LoRAConfig(**options)


class TestSelection:
    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ({"targets": [r"re:.*\.(q|k)_lin"]}, {"target_modules": r".*\.(q|k)_lin"}),
            (
                {"targets": ["q_lin", "lin1"], "layers": [1]},
                {"target_modules": ["q_lin", "lin1"], "layers_to_transform": [1]},
            ),
            (
                {"targets": ["q_lin", "k_lin"], "exclude": ["layer.0.attention.q_lin"]},
                {"target_modules": ["q_lin", "k_lin"], "exclude_modules": ["layer.0.attention.q_lin"]},
            ),
            (
                {"targets": ["q_lin", "k_lin"], "exclude": [r"re:.*0.*q_lin"]},
                {"target_modules": ["q_lin", "k_lin"], "exclude_modules": ".*0.*q_lin"},
            ),
        ],
    )
    def test_same_modules_as_peft(self, ours, theirs):
        """Regular expressions, layer numbers and exclusions select what PEFT selects."""
        assert names(**ours) == peft_names(**theirs)
        assert 0 < len(names(**ours)) < 12

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"targets": ["re:.*nothing"]}, "no module is called 're:.*nothing'"),
            ({"targets": ["q_lin"], "exclude": ["qlin"]}, "--exclude: no module is called 'qlin'; nearest: q_lin"),
            ({"targets": ["q_lin"], "exclude": ["q_lin"]}, "--targets: no module is called 'q_lin'"),
            ({"targets": ["q_lin"], "layers": [0, 7]}, "--layers: no target is in layer 7"),
            ({"targets": ["q_lin"], "layers": [7]}, "--layers: no target is in layer 7; layers are counted from 0"),
            ({"targets": ["re:.*attention.*"]}, "can't adapt"),
        ],
    )
    def test_what_selects_nothing_or_too_much_is_refused(self, options, message):
        """Every pattern, exclude and layer number has to mean something."""
        with pytest.raises(TargetError, match=message):
            names(**options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"targets": ["re:a", "q_lin"]}, r"\['re:a'\] alone"),
            ({"targets": ["all-linear", "q_lin"]}, r"\['all-linear'\] alone"),
            ({"targets": ["re:("]}, "no regular expression"),
            ({"targets": "q_lin"}, "a list of names"),
            ({"exclude": ["re:("]}, "no regular expression"),
            ({"layers": []}, "--layers"),
            ({"layers": [-1]}, "--layers"),
            ({"targets": ["re:.*"], "layers": [0]}, "no --layers with a re: target"),
        ],
    )
    def test_selections_that_say_two_things_are_refused(self, options, message):
        """Before a model is touched."""
        with pytest.raises(ConfigError, match=message):
            LoRAConfig(**options)

    @pytest.mark.parametrize(
        ("name", "index"),
        [
            ("distilbert.transformer.layer.3.attention.q_lin", 3),
            ("bert.encoder.layer.11.attention.self.query", 11),
            ("transformer.h.0.attn.c_attn", 0),
            ("model.layers.1.experts.5.w1", 1),
            ("layers.2.q", 2),
            ("0.q", 0),
            ("classifier.dense", None),
            ("classifier.2", None),
        ],
    )
    def test_layer_index_is_the_first_number_inside_the_name(self, name, index):
        """Not that of an expert further down; a number at the end is the module itself."""
        assert layer_index(name) == index

    def test_head_modules_are_never_targets(self):
        """Also not of a regular expression that matches everything linear."""
        model = nn.ModuleDict({"q": nn.Linear(4, 4), "head": nn.Linear(4, 2)})
        assert list(find_targets(model, ["re:q|head"], variant="lora", heads=["head"])) == ["q"]


def test_config_refuses_what_can_not_be_combined():
    """pissa is stored as plain LoRA, so not with DoRA; orthogonal needs even ranks; unknown names list the known ones."""
    with pytest.raises(ConfigError, match="--init: found 'pissa'; expected --variant lora"):
        LoRAConfig(variant="dora", init="pissa")
    with pytest.raises(ConfigError, match="an even rank"):
        LoRAConfig(init="orthogonal", rank_pattern={"q": 3})
    with pytest.raises(ConfigError, match=r"--variant: found 'vera'; expected one of .*dora, lora"):
        LoRAConfig(variant="vera")
    with pytest.raises(ConfigError, match="--init: found 'zeros'; expected one of default"):
        LoRAConfig(init="zeros")


def test_inject_is_all_or_nothing_with_patterns():
    """A plan that can't be carried out leaves the model as it was."""
    model = tiny_distilbert()
    before = torch.cat([p.flatten() for p in model.parameters()])
    with pytest.raises(ConfigError):
        inject(model, LoRAConfig(rank=4, targets=["q_lin"], rank_pattern={"nothing": 2}))
    assert not adapter_layers(model)
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(torch.cat([p.flatten() for p in model.parameters()]), before)
