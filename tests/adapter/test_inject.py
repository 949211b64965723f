"""lora_scratch/adapter/inject.py: there and back, counted, frozen, and the same whatever the order."""

import copy

import pytest
import torch
from support.causal import user_inputs, user_model
from support.families import logits, record, tiny, token_batch
from support.tiny import tiny_distilbert
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from lora_scratch.adapter import (
    LoRAConfig,
    adapter_layers,
    check_trainable,
    count_parameters,
    disabled,
    inject,
    is_adapted,
    merge_all,
    merge_and_remove,
    remove_adapter,
    unmerge_all,
)
from lora_scratch.errors import ConfigError, MergeError, TargetError, TrainingError
from lora_scratch.layers import LoRALinear
from lora_scratch.testing import check_all, move_adapter, relative_error

FAMILIES = ["distilbert", "bert", "roberta", "electra"]
Q0 = "distilbert.transformer.layer.0.attention.q_lin"


def adapted(family="distilbert", *, moved=True, **options):
    """A model with an adapter away from its start, head included, alpha different from rank, no dropout."""
    model = inject(tiny(family), LoRAConfig(**{"rank": 4, "alpha": 6, "dropout": 0.0} | options))
    if moved:
        move_adapter(model)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.requires_grad and "lora_" not in name:
                    p.add_(0.1)
    return model


class TestInject:
    """What changes, and what does not."""

    @pytest.mark.parametrize("family", FAMILIES)
    def test_adapted_model_starts_as_the_base_bit_for_bit(self, family):
        """B = 0 and an untouched head: step 0 is the base, also in training mode with dropout on the update."""
        model = tiny(family)
        expected = logits(model)
        inject(model, LoRAConfig(rank=4, dropout=0.5))
        assert torch.equal(logits(model), expected)
        model.train()
        assert torch.equal(logits(model), expected)

    def test_every_target_is_replaced_and_keeps_the_caller_s_tensors(self):
        """The same weight and bias objects, the training mode and the device of the layer before."""
        model = tiny_distilbert()
        before = dict(model.named_modules())
        tensors = {name: (module.weight, module.bias) for name, module in before.items() if isinstance(module, nn.Linear)}
        inject(model, LoRAConfig(rank=4))
        layers = adapter_layers(model)
        assert sorted(layers) == sorted(name for name in before if name.rpartition(".")[2] in ("q_lin", "k_lin", "v_lin"))
        for name, layer in layers.items():
            assert type(layer) is LoRALinear
            assert layer.base is before[name]
            assert (layer.weight, layer.bias) == tensors[name]
            assert not layer.training
            assert (layer.rank, layer.alpha, layer.scaling, layer.dropout.p) == (4, 16, 4, 0.1)

    def test_only_adapter_and_head_are_trained(self):
        """Everything else asks for no gradient."""
        model = adapted()
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        lora = {f"{name}.{part}" for name in adapter_layers(model) for part in ("lora_A", "lora_B")}
        head = {f"{name}.{part}" for name in ("pre_classifier", "classifier") for part in ("weight", "bias")}
        assert trained == lora | head

    def test_backward_reaches_every_trained_tensor_and_no_other(self):
        """Gradients in float32, none on the base."""
        model = adapted()
        model(**token_batch(), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        for name, p in model.named_parameters():
            assert (p.grad is not None and bool(p.grad.any())) is p.requires_grad, name

    @pytest.mark.parametrize(
        ("targets", "heads"), [(["v_lin", "q_lin"], []), (["q_lin"], None), (["lin1", "k_lin", "q_lin"], ["classifier"])]
    )
    def test_a_of_a_module_depends_on_seed_and_name_alone(self, targets, heads):
        """PAINS 39: not on which other modules there are, their order, the head, or what was drawn before."""
        reference = adapter_layers(inject(tiny_distilbert(), LoRAConfig(rank=4), seed=7))
        torch.rand(3)
        model = inject(tiny_distilbert(seed=3), LoRAConfig(rank=4, targets=targets, head_modules=heads), seed=7)
        assert torch.equal(adapter_layers(model)[Q0].lora_A, reference[Q0].lora_A)
        other = inject(tiny_distilbert(), LoRAConfig(rank=4), seed=8)
        assert not torch.equal(adapter_layers(other)[Q0].lora_A, reference[Q0].lora_A)

    def test_a_of_a_module_does_not_depend_on_those_drawn_before_it(self):
        """PAINS 39: the last of six layers starts from the same A when it is the only one."""
        name = "distilbert.transformer.layer.1.attention.v_lin"
        among, alone = (
            inject(tiny_distilbert(), LoRAConfig(rank=4, targets=targets), seed=7)
            for targets in (["q_lin", "v_lin"], [name])
        )
        assert list(adapter_layers(alone)) == [name]
        assert torch.equal(adapter_layers(among)[name].lora_A, adapter_layers(alone)[name].lora_A)

    def test_modules_start_from_different_a(self):
        """No two of the same shape share their random numbers."""
        draws = {tuple(layer.lora_A.flatten().tolist()) for layer in adapter_layers(adapted(moved=False)).values()}
        assert len(draws) == 6

    def test_injection_draws_nothing_from_the_global_state(self):
        """Whoever seeds a run gets the same run with and without an adapter."""
        model, state = tiny_distilbert(), torch.get_rng_state()
        inject(model, LoRAConfig(rank=4))
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_half_precision_base_gets_float32_adapter_and_head(self, dtype):
        """PAINS 15: GradScaler refuses float16 gradients, so what is trained is float32, the head too; the rest stays."""
        model = inject(tiny_distilbert().to(dtype), LoRAConfig(rank=4))
        for name, p in model.named_parameters():
            assert p.dtype == (torch.float32 if p.requires_grad else dtype), name
        check_trainable(model)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"targets": ["q_lin", "typo"]}, TargetError, "no module is called 'typo'"),
            ({"head_modules": ["classifier", "typo"]}, TargetError, "no module with parameters is called 'typo'"),
            ({"rank": 33}, ConfigError, f"rank 33 on {Q0}, which is 32 -> 32; expected at most 32"),
            ({"targets": ["classifier"]}, TargetError, "no module is called 'classifier'"),
        ],
        ids=str,
    )
    def test_refused_injection_leaves_the_model_as_it_was(self, options, error, message):
        """All is checked before anything is touched, requires_grad included."""
        model = tiny_distilbert()
        model.distilbert.embeddings.requires_grad_(False)
        before = record(model)
        with pytest.raises(error, match=message):
            inject(model, LoRAConfig(**options))
        assert record(model) == before

    def test_injection_that_fails_while_building_leaves_the_model_as_it_was(self):
        """The last of three layers can't be adapted: the first two are not either, and requires_grad is what it was."""
        tables = {"a": nn.Embedding(6, 4), "b": nn.Linear(6, 4), "c": nn.Embedding(6, 4, max_norm=1.0)}
        model = nn.ModuleDict(tables)
        model["b"].bias.requires_grad_(False)
        before = record(model)
        with pytest.raises(ConfigError, match=r"^c: max_norm is 1\.0"):
            inject(model, LoRAConfig(rank=2, targets=["a", "b", "c"]))
        assert record(model) == before

    def test_second_injection_is_refused(self):
        """PAINS 22: no adapter inside an adapter."""
        model = adapted()
        before = record(model)
        with pytest.raises(
            ConfigError, match=r"^inject: the model has an adapter already; call remove_adapter\(model\) first$"
        ):
            inject(model, LoRAConfig())
        assert record(model) == before

    def test_model_without_adapter_says_so(self):
        """Each of the ways back asks for an adapter."""
        for call in (remove_adapter, merge_and_remove, lambda model: disabled(model).__enter__()):
            with pytest.raises(ConfigError, match=r"the model has no adapter; call inject\(model, config\)"):
                call(tiny_distilbert())

    def test_module_names_with_lora_in_them_are_ordinary(self):
        """PAINS 30: nothing is decided by a substring."""
        model = nn.ModuleDict({"lora_A": nn.Linear(6, 4), "my_lora": nn.ModuleDict({"lora_B": nn.Linear(4, 4)})})
        inject(model, LoRAConfig(rank=2, targets=["lora_B"], head_modules=["lora_A"]))
        assert list(adapter_layers(model)) == ["my_lora.lora_B"]
        assert count_parameters(model).lora == 2 * (4 + 4)
        assert count_parameters(model).head == 4 * 6 + 4

    def test_modules_called_base_are_ordinary(self):
        """An adapter layer calls what it wraps `base`; so may a model call its own modules, adapted, head, or neither."""

        def make():
            torch.manual_seed(0)
            return nn.ModuleDict({name: nn.ModuleDict({"base": nn.Linear(4, 4)}) for name in ("body", "head", "rest")})

        model = make()
        before = record(model)
        inject(model, LoRAConfig(rank=2, targets=["body.base"], head_modules=["head.base"]))
        move_adapter(model)
        with torch.no_grad():
            model["head"]["base"].weight.add_(1)
        trained = record(model)
        with disabled(model):
            assert torch.equal(model["head"]["base"].weight, make()["head"]["base"].weight)
        assert record(model) == trained
        assert {name for name, p in model.named_parameters() if p.requires_grad} == {
            "body.base.lora_A",
            "body.base.lora_B",
            "head.base.weight",
            "head.base.bias",
        }
        remove_adapter(model)
        assert record(model) == before

    def test_layers_of_an_adapted_model_obey_the_laws(self):
        """The public laws, on a layer as inject makes it."""
        layer = adapter_layers(adapted(moved=False))[Q0]
        check_all(lambda: copy.deepcopy(layer), torch.randn(2, 3, 32), skip=["gradients"])


class TestCount:
    """Numbers that the reports print."""

    def test_distilbert_base_has_the_published_counts(self):
        """q, k, v at rank 8: 221,184 LoRA and 592,130 head parameters beside 66,955,010, told apart."""
        with torch.device("meta"):
            model = DistilBertForSequenceClassification(DistilBertConfig(num_labels=2))
        base = sum(p.numel() for p in model.parameters())
        count = count_parameters(inject(model, LoRAConfig()))
        assert (base, count.lora, count.head) == (66_955_010, 221_184, 592_130)
        assert count.trainable == 221_184 + 592_130
        assert count.total == base + 221_184

    def test_plain_model_counts_as_all_head(self):
        """Nothing is LoRA where nothing was injected."""
        model = tiny_distilbert()
        total = sum(p.numel() for p in model.parameters())
        count = count_parameters(model)
        assert (count.total, count.trainable, count.lora, count.head) == (total, total, 0, total)

    def test_rank_and_head_change_the_count_as_the_formula_says(self):
        """rank · (in + out) for each of six layers; one head module of two."""
        count = count_parameters(adapted(rank=3, head_modules=["classifier"]))
        assert (count.lora, count.head) == (6 * 3 * (32 + 32), 32 * 3 + 3)


class TestDisabled:
    """The base again, bit for bit."""

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("merged", [False, True], ids=["unmerged", "merged"])
    def test_disabled_model_is_the_base_and_comes_back(self, family, merged):
        """PAINS 29: head included, whether merged or not; afterwards every bit of the adapted model is there."""
        expected, model = logits(tiny(family)), adapted(family)
        if merged:
            merge_all(model)
        before, ours = record(model), logits(model)
        assert not torch.equal(ours, expected)
        with disabled(model) as base:
            assert base is model
            assert torch.equal(logits(model), expected)
        assert record(model) == before
        assert torch.equal(logits(model), ours)

    def test_exception_in_the_block_brings_the_adapter_back(self):
        """PAINS 36: no silent base after an error, a KeyboardInterrupt least of all."""
        model = adapted()
        before, ours = record(model), logits(model)

        def fail():
            with disabled(model):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fail()
        assert record(model) == before
        assert torch.equal(logits(model), ours)

    def test_disabled_in_disabled_is_still_the_base(self):
        """The inner block does not switch the outer one off."""
        expected, model = logits(tiny_distilbert()), adapted()
        ours = logits(model)
        with disabled(model):
            with disabled(model):
                assert torch.equal(logits(model), expected)
            assert torch.equal(logits(model), expected)
        assert torch.equal(logits(model), ours)

    def test_disabled_remembers_a_layer_that_was_off(self):
        """A switch set by hand is what it was afterwards."""
        model = adapted()
        adapter_layers(model)[Q0].enabled = False
        with disabled(model):
            pass
        assert [layer.enabled for layer in adapter_layers(model).values()] == [False] + [True] * 5

    def test_optimizer_trains_on_after_a_disabled_block(self):
        """The parameters are the same objects, so an optimizer made before still moves them."""
        model = adapted()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        with disabled(model):
            logits(model)
        before = record(model)["tensors"]
        model(**token_batch(), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        optimizer.step()
        after = record(model)["tensors"]
        assert {name for name in before if before[name] != after[name]} == {
            n for n, p in model.named_parameters() if p.requires_grad
        }

    def test_half_precision_base_is_itself_when_disabled(self):
        """The head is float32 while it is trained; switched off, the numbers are the base's in the head's dtype."""
        base = tiny_distilbert().to(torch.bfloat16)
        before = {name: p.clone() for name, p in base.classifier.named_parameters()}
        model = inject(base, LoRAConfig(rank=4))
        with torch.no_grad():
            model.classifier.weight.add_(1)
        with disabled(model):
            assert torch.equal(model.classifier.weight, before["weight"].float())


class TestRemove:
    """As if nothing had happened."""

    @pytest.mark.parametrize("family", FAMILIES)
    def test_remove_gives_back_every_bit_and_requires_grad(self, family):
        """Tensors, dtypes, modes, module types: the record before is the record after, also when merged."""
        model = tiny(family)
        next(model.parameters()).requires_grad_(False)
        before, expected = record(model), logits(model)
        for merge in (False, True):
            inject(model, LoRAConfig(rank=4))
            move_adapter(model)
            with torch.no_grad():
                model.classifier.requires_grad_(True)
                for p in model.classifier.parameters():
                    p.add_(1)
            if merge:
                merge_all(model)
            assert remove_adapter(model) is model
            assert record(model) == before
            assert not is_adapted(model)
        assert torch.equal(logits(model), expected)

    def test_remove_gives_a_half_precision_head_its_dtype_back(self):
        """The head went to float32 for training, not for good."""
        model = tiny_distilbert().to(torch.bfloat16)
        before = record(model)
        remove_adapter(inject(model, LoRAConfig(rank=4)))
        assert record(model) == before

    def test_remove_puts_the_first_values_where_the_model_is_now(self):
        """A model that went to another device in between is whole there: the meta device stands in for any other."""
        model = inject(tiny_distilbert(), LoRAConfig(rank=4))
        remove_adapter(model.to("meta"))
        assert {tensor.device.type for tensor in model.parameters()} == {"meta"}

    def test_training_mode_goes_along(self):
        """A model in training mode stays in it, there and back."""
        model = tiny_distilbert().train()
        before = record(model)
        inject(model, LoRAConfig(rank=4))
        assert all(module.training for module in model.modules())
        remove_adapter(model)
        assert record(model) == before


class TestMerge:
    """All or none, and the base untouched."""

    @pytest.mark.parametrize("family", FAMILIES)
    def test_merged_model_says_what_the_adapted_one_says(self, family):
        """And after unmerging, exactly that."""
        model = adapted(family)
        before, ours = record(model), logits(model)
        merge_all(model)
        assert relative_error(logits(model), ours.double()) < 1e-5
        unmerge_all(model)
        assert record(model) == before
        assert torch.equal(logits(model), ours)

    @pytest.mark.parametrize("number", range(6))
    def test_merge_of_a_model_with_one_nan_merges_nothing_and_names_the_layer(self, number):
        """PAINS 13: whichever layer is at fault."""
        model = adapted()
        name = list(adapter_layers(model))[number]
        with torch.no_grad():
            adapter_layers(model)[name].lora_B[0, 0] = float("nan")
        before = record(model)
        with pytest.raises(MergeError, match=f"^{name}: merge: the folded weight is not finite"):
            merge_all(model)
        with pytest.raises(MergeError, match=f"^{name}: "):
            merge_and_remove(model)
        assert record(model) == before
        assert not any(layer.merged for layer in adapter_layers(model).values())

    def test_second_merge_is_refused_and_the_first_one_stays(self):
        """PAINS 12: an error, not a double update; and no half of the layers unmerged."""
        model = adapted()
        merge_all(model)
        ours = logits(model)
        with pytest.raises(MergeError, match=f"^{Q0}: merge: already merged"):
            merge_all(model)
        assert all(layer.merged for layer in adapter_layers(model).values())
        assert torch.equal(logits(model), ours)

    def test_unmerge_all_takes_models_merged_wholly_partly_or_not(self):
        """The way back has no precondition."""
        model = adapted()
        ours = logits(model)
        adapter_layers(model)[Q0].merge()
        unmerge_all(model)
        unmerge_all(model)
        assert torch.equal(logits(model), ours)

    @pytest.mark.parametrize("merged", [False, True], ids=["unmerged", "merged"])
    def test_merge_and_remove_leaves_a_plain_model_that_computes_the_same(self, merged):
        """Module types and names of the base, the trained head, and the caller's own weight tensors as they were."""
        plain, model = record(tiny_distilbert()), tiny_distilbert()
        weight = model.get_submodule(Q0).weight
        bits = weight.detach().clone()
        inject(model, LoRAConfig(rank=4, alpha=6, dropout=0.0))
        move_adapter(model)
        with torch.no_grad():
            model.classifier.bias.add_(1)
        ours = logits(model)
        if merged:
            merge_all(model)
        merge_and_remove(model)
        assert relative_error(logits(model), ours.double()) < 1e-5
        assert not is_adapted(model)
        assert record(model)["modules"] == plain["modules"]
        assert list(record(model)["tensors"]) == list(plain["tensors"])
        assert all(p.requires_grad for p in model.parameters())
        assert model.get_submodule(Q0).weight is not weight
        assert torch.equal(weight, bits)

    def test_merge_and_remove_leaves_a_merged_model_merged_when_its_update_is_no_longer_finite(self):
        """After the error nothing has changed: the folded weights from before are still the ones in use."""
        model = adapted()
        merge_all(model)
        before, ours = record(model), logits(model)
        last = list(adapter_layers(model).values())[-1]
        with torch.no_grad():
            last.lora_A[0, 0] = torch.nan
        with pytest.raises(MergeError, match=r"layer\.1\.attention\.v_lin: merge: the folded weight is not finite"):
            merge_and_remove(model)
        assert torch.equal(logits(model), ours)
        assert all(layer.merged for layer in adapter_layers(model).values())
        assert record(model)["modules"] == before["modules"]

    def test_eval_train_and_state_dict_never_merge(self):
        """PAINS 12: no mode changes a weight, and a state_dict of a merged model is the unmerged one."""
        model = adapted()
        before = record(model)["tensors"]
        model.train().eval()
        assert record(model)["tensors"] == before
        expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        merge_all(model)
        state = model.state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


class TestCheckTrainable:
    """Before a run that would learn nothing."""

    def test_adapted_model_is_trainable(self):
        """No word."""
        check_trainable(adapted())

    def test_nothing_to_train_is_an_error(self):
        """PAINS 22: zero trainables abort."""
        model = adapted()
        model.requires_grad_(False)
        with pytest.raises(
            TrainingError, match=r"^train: no parameter requires a gradient; inject an adapter or unfreeze the model$"
        ):
            check_trainable(model)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_trained_half_precision_is_an_error_that_names_it(self, dtype):
        """PAINS 15: before GradScaler says `Attempting to unscale FP16 gradients`."""
        model = adapted()
        model.classifier.to(dtype)
        names = rf"classifier\.weight \({dtype}\), classifier\.bias \({dtype}\)"
        message = rf"^train: trainable tensors in half precision: {names}; expected float32$"
        with pytest.raises(TrainingError, match=message):
            check_trainable(model)
        model.to(dtype)
        with pytest.raises(TrainingError, match=r"half precision: ([^,]+, ){2}[^,]+; expected float32$"):
            check_trainable(model)  # three of many

    def test_merged_layer_is_an_error_that_names_it(self):
        """A merged weight does not follow A and B."""
        model = adapted()
        adapter_layers(model)[Q0].merge()
        with pytest.raises(
            TrainingError, match=rf"^train: {Q0} is merged and would not learn; call unmerge_all\(model\) first$"
        ):
            check_trainable(model)


def test_the_seed_is_zero_unless_another_is_given():
    """A is drawn from it."""
    default, zero, one = (
        inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=8), **seed) for seed in ({}, {"seed": 0}, {"seed": 1})
    )
    a = [next(p for name, p in model.named_parameters() if "lora_A" in name) for model in (default, zero, one)]
    assert torch.equal(a[0], a[1])
    assert not torch.equal(a[0], a[2])


@pytest.mark.parametrize("undo", [remove_adapter, lambda model: disabled(model).__enter__()], ids=["remove", "disable"])
def test_head_of_another_shape_than_before_is_named(undo):
    """After `resize_token_embeddings` the old output layer would not fit the new input layer."""
    model = inject(user_model("llama"), LoRAConfig(rank=2, targets=["q_proj"], head_modules=["lm_head"]))
    model.resize_token_embeddings(60)
    with pytest.raises(ConfigError, match=r"lm_head.weight: it is \(60, 32\), and was \(50, 32\)"):
        undo(model)
    assert len(adapter_layers(merge_and_remove(model))) == 0
    assert model(**user_inputs("llama")).logits.shape[-1] == 60
