"""lora_scratch/deploy/bank.py: one model with many adapters answers each row as the separate adapted model would."""

import itertools
import tempfile
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.families import logits, record, tiny, token_batch
from torch import nn

from lora_scratch import AdapterBank
from lora_scratch.adapter import LoRAConfig, inject, quantize_base, scaled
from lora_scratch.data import Batch
from lora_scratch.deploy.bank_layers import BankLayer, BankLinear
from lora_scratch.errors import AdapterFileError, BaseMismatchError, ConfigError, TargetError
from lora_scratch.fast.packed import packed
from lora_scratch.model.forward import classify
from lora_scratch.serialization import load_adapter, save_adapter
from lora_scratch.testing import move_adapter, relative_error

TARGETS = {"distilbert": ["q_lin", "v_lin"], "gpt2": ["c_attn", "c_fc"]}
EMBEDDING = {"distilbert": "word_embeddings", "gpt2": "wte"}


def trained(family="distilbert", *, labels=3, seed=1, **options):
    """An adapted model away from its start: adapter, head and biases."""
    options = {"rank": 2, "alpha": 3, "dropout": 0.0, "targets": TARGETS.get(family, ["query", "value"])} | options
    model = inject(tiny(family, labels=labels), LoRAConfig(**options), seed=seed)
    move_adapter(model, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and not ("lora_" in name or "magnitude" in name):
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model.eval()


def reloaded(model, family):
    """The model as its folder holds it: pissa is stored as plain LoRA, worked out and rounded on the way."""
    other = tiny(family)
    with tempfile.TemporaryDirectory() as place:
        load_adapter(other, save_adapter(model, f"{place}/a"))
    return other


def quantized():
    """A base whose linear layers have four bits a weight."""
    model = tiny("distilbert")
    quantize_base(model)
    return model


def mixture(family):
    """Adapters of every kind, with other ranks, targets, labels and biases each."""
    embedding = EMBEDDING.get(family, "word_embeddings")
    return {
        "lora": trained(family, seed=1),
        "rslora": trained(family, seed=2, rank=3, rslora=True, targets=["all-linear"], bias="lora_only"),
        "dora": trained(family, seed=3, variant="dora", labels=5),
        "biases": trained(family, seed=4, bias="all", labels=2, rank_pattern={TARGETS.get(family, ["query"])[0]: 4}),
        "embedding": trained(family, seed=5, targets=[embedding, *TARGETS.get(family, ["query"])[:1]]),
        "pissa": reloaded(trained(family, seed=6, init="pissa", alpha_pattern={"0.*": 7}), family),
        "bare": trained(family, seed=7, head_modules=[]),
    }


def filled(adapters, *, family="distilbert", double=False, **options):
    """A bank that holds these models' adapters."""
    base = tiny(family)
    bank = AdapterBank(base.double() if double else base, **options)
    for name, model in adapters.items():
        bank.add(name, model, verify_base=not double)
    return bank


def answer(bank, names, **options):
    """The bank's logits of `token_batch`, one name a row."""
    with torch.no_grad(), bank.rows(names, **options) as model:
        return model(**token_batch(rows=len(names))).logits


@pytest.fixture(scope="module")
def adapters():
    """Those of DistilBERT, with the base among them."""
    return mixture("distilbert") | {"base": tiny("distilbert")}


@pytest.fixture(scope="module")
def shared(adapters):
    """A bank of them, to be left as it is; and all separate models, in float64."""
    bank = filled({name: model for name, model in adapters.items() if name != "base"}, double=True)
    return bank, mixture("distilbert") | {"base": tiny("distilbert").double()}


class TestAnswers:
    """Equal to N separate models."""

    @pytest.mark.parametrize("family", ["distilbert", "bert", "roberta", "electra", "gpt2"])
    @pytest.mark.parametrize(("double", "tolerance"), [(True, 1e-12), (False, 1e-5)], ids=["float64", "float32"])
    def test_bank_equals_separate_models(self, family, double, tolerance):
        """Every kind of adapter, heads and all, mixed in one batch with the base; PAINS 35."""
        models = mixture(family)
        bank = filled(models, family=family, double=double)
        names = [*models, "base", "lora", "dora"]
        found = answer(bank, names)
        for i, name in enumerate(names):
            model = tiny(family) if name == "base" else models[name]
            expected = logits(model.double() if double else model, rows=len(names))[i]
            assert relative_error(found[i, : len(expected)], expected) < tolerance
            assert found[i, len(expected) :].eq(-torch.inf).all()
            assert len(bank.labels[name]) == len(expected)

    @given(
        names=st.lists(
            st.sampled_from(["base", "lora", "rslora", "dora", "biases", "embedding", "pissa", "bare"]),
            min_size=1,
            max_size=6,
        ),
        data=st.data(),
    )
    def test_any_assignment_of_rows_equals_the_separate_models(self, shared, names, data):
        """In float64 to 1e-12, and every row as strong as it asks for: `scaled` on the model of its own."""
        bank, models = shared
        rows = st.lists(st.sampled_from([1.0, 0.5, 0.0, -3.0]), min_size=len(names), max_size=len(names))
        strength = data.draw(st.one_of(st.just(1.0), rows))
        found = answer(bank, names, strength=strength)
        for i, name in enumerate(names):
            model = models[name].double()
            if name == "base":
                expected = logits(model, rows=len(names))[i]
            else:
                with scaled(model, strength if isinstance(strength, float) else strength[i]):
                    expected = logits(model, rows=len(names))[i]
            assert relative_error(found[i, : len(expected)], expected) < 1e-12

    def test_bank_under_autocast_equals_separate_models(self, adapters):
        """bfloat16, as predict.py runs it, to its tolerance."""
        names = ["lora", "dora", "base", "biases", "embedding"]
        bank = filled({name: adapters[name] for name in names if name != "base"})
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = answer(bank, names)
        for i, name in enumerate(names):
            expected = logits(adapters[name], rows=len(names))[i]
            assert relative_error(found[i, : len(expected)], expected) < 6e-2

    def test_bank_on_a_four_bit_base_equals_separate_models(self, tmp_path):
        """LoRA, DoRA and biases learnt on the quantized numbers; on the full ones they are refused."""
        config = {"rank": 2, "alpha": 3, "dropout": 0.0, "targets": ["q_lin", "lin1"]}
        models = {
            kind: inject(quantized(), LoRAConfig(**config, **options)).eval()
            for kind, options in {"lora": {}, "dora": {"variant": "dora"}, "biases": {"bias": "all"}}.items()
        }
        bank = AdapterBank(quantized())
        for seed, (name, model) in enumerate(models.items()):
            move_adapter(model, seed=seed)
            with torch.no_grad():
                [p.add_(0.1) for key, p in model.named_parameters() if p.requires_grad and key.endswith("bias")]
            bank.add(name, save_adapter(model, tmp_path / name))
        names = [*models, "base"]
        found = answer(bank, names)
        for i, model in enumerate([*models.values(), quantized()]):
            assert relative_error(found[i], logits(model, rows=4)[i]) < 1e-5
        with pytest.raises(BaseMismatchError):
            AdapterBank(tiny("distilbert")).add("lora", tmp_path / "lora")

    def test_disabled_is_the_base_bit_for_bit(self, adapters):
        """With rows and without, head and label count included; an exception inside switches it on again."""
        bank = filled({"dora": adapters["dora"], "biases": adapters["biases"]})
        before = answer(bank, ["dora", "biases"])
        expected = logits(tiny("distilbert"), rows=2)
        with bank.disabled():
            assert torch.equal(logits(bank.model, rows=2), expected)
        with bank.rows(["dora", "biases"]) as model:
            with pytest.raises(KeyError), bank.disabled():
                raise KeyError
            assert torch.equal(logits(model, rows=2), before)
            with bank.disabled():
                assert torch.equal(logits(model, rows=2), expected)

    def test_adapter_of_another_tool_has_transformers_label_names(self, tmp_path):
        """A folder without provenance.json, with other labels than the base."""
        folder = save_adapter(trained(labels=2), tmp_path / "a")
        (folder / "provenance.json").unlink()
        bank = AdapterBank(tiny("distilbert"))
        bank.add("theirs", folder)
        assert bank.labels["theirs"] == ("LABEL_0", "LABEL_1")
        torch.testing.assert_close(answer(bank, ["theirs"])[:, :2], logits(trained(labels=2), rows=1))

    def test_labels_are_those_of_the_folder(self, tmp_path):
        """Of provenance.json; the base's are its own."""
        bank = AdapterBank(tiny("distilbert"))
        bank.add("mood", save_adapter(trained(labels=2), tmp_path / "a", notes={"labels": ["good", "bad"]}))
        assert bank.labels == {"base": ("LABEL_0", "LABEL_1", "LABEL_2"), "mood": ("good", "bad")}


class TestRouting:
    """Nothing is silently wrong."""

    @pytest.mark.parametrize(
        ("names", "match"),
        [
            (["lora", "lorra"], r"bank.rows: no adapter is called 'lorra'; expected one of base, lora; nearest: lora"),
            (["lora", None], r"no adapter is called None"),
            ([], r"found \[\]; expected a list with one name for each row"),
            ("lora", r"found 'lora'; expected a list with one name for each row"),
        ],
    )
    def test_wrong_names_are_an_error(self, adapters, names, match):
        """Before anything is computed."""
        bank = filled({"lora": adapters["lora"]})
        with pytest.raises(ConfigError, match=match), bank.rows(names):
            pytest.fail("entered")

    @pytest.mark.parametrize("strength", [[1.0], [1.0, 2.0, 3.0], float("nan"), [1.0, float("inf")]])
    def test_wrong_strengths_are_an_error(self, adapters, strength):
        """One number, or one a row, all finite."""
        bank = filled({"lora": adapters["lora"]})
        with pytest.raises(ConfigError, match=r"for 2 rows; expected a finite number, or one a row"):
            answer(bank, ["lora", "base"], strength=strength)

    @pytest.mark.parametrize("count", [1, 3, 5])
    def test_another_number_of_names_than_rows_is_an_error(self, adapters, count):
        """One name does not stand for all rows either."""
        bank = filled({"lora": adapters["lora"]})
        with pytest.raises(ValueError, match=rf"4 rows where {count} have named"), bank.rows(["lora"] * count) as model:
            model(**token_batch(rows=4))

    def test_forward_without_named_rows_is_an_error_also_after_an_exception(self, adapters):
        """PAINS 36: no routing leaks out of a batch that failed."""
        bank = filled({"lora": adapters["lora"]})
        with pytest.raises(KeyError), bank.rows(["lora"] * 4):
            raise KeyError
        with pytest.raises(RuntimeError, match=r"call the model inside `with bank.rows"):
            logits(bank.model)

    def test_a_bank_is_never_packed(self, adapters):
        """Packed, its rows are not apart, so no token would know its adapter: the same call stays padded."""
        bank = filled({"lora": adapters["lora"]})
        batch = token_batch(rows=3)
        rows = Batch(batch["input_ids"], batch["attention_mask"], torch.zeros(3), torch.arange(3))
        with bank.rows(["lora", "base", "lora"]) as model, torch.no_grad(), packed(model):
            found = classify(model, rows)
        assert torch.equal(found, answer(bank, ["lora", "base", "lora"]))

    def test_rows_do_not_nest_and_adapters_do_not_change_under_a_batch(self, adapters):
        """A batch in flight keeps its slots."""
        bank = filled({"lora": adapters["lora"]})
        calls = [
            lambda: bank.add("bare", adapters["bare"]),
            lambda: bank.replace("lora", adapters["bare"]),
            lambda: bank.remove("lora"),
            lambda: bank.unwrap(),
            lambda: bank.rows(["base"]).__enter__(),
        ]
        with bank.rows(["lora"]):
            for call in calls:
                with pytest.raises(ConfigError, match=r"the rows of a batch are named; leave `with bank.rows"):
                    call()
        assert bank.adapters == ("lora",)

    def test_threads_take_turns(self, adapters):
        """Each gets the answer to its own rows, while one adapter comes and goes."""
        bank = filled({"lora": adapters["lora"], "dora": adapters["dora"]}, capacity=3)
        names = [list(each) for each in itertools.product(["lora", "dora", "base"], repeat=2)]
        expected = [answer(bank, each) for each in names]
        found = [None] * len(names)

        def serve(index):
            found[index] = answer(bank, names[index])

        threads = [threading.Thread(target=serve, args=(index,)) for index in range(len(names))]
        for thread in threads:
            thread.start()
        bank.add("bare", adapters["bare"])
        bank.remove("bare")
        for thread in threads:
            thread.join()
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class TestSwap:
    """Adapters come and go, and a failure changes nothing."""

    def test_add_replace_and_remove_leave_the_other_adapters_bits(self, adapters):
        """And what comes answers as it should. No layer is wrapped twice; no weight of the base has changed."""
        bank = filled({"lora": adapters["lora"], "dora": adapters["dora"]}, capacity=3, max_rank=4)
        layers = [module for module in bank.model.modules() if isinstance(module, BankLayer)]
        before = answer(bank, ["lora", "base"])
        bank.add("pissa", adapters["pissa"])
        bank.replace("dora", adapters["biases"])
        bank.remove("pissa")
        assert torch.equal(answer(bank, ["lora", "base"]), before)
        torch.testing.assert_close(answer(bank, ["dora"])[:, :2], logits(adapters["biases"], rows=1))
        assert bank.adapters == ("lora", "dora")
        assert all(layer in set(bank.model.modules()) for layer in layers)
        assert record(bank.unwrap())["tensors"] == record(tiny("distilbert"))["tensors"]

    def test_slots_are_used_again(self, adapters):
        """Up to its capacity a bank keeps its shapes, replacements included."""
        bank = filled({"a": adapters["lora"]}, capacity=2)
        shapes = {name: buffer.shape for name, buffer in bank.model.named_buffers()}
        for _ in range(3):
            bank.add("b", adapters["lora"])
            bank.replace("a", adapters["lora"])
            bank.replace("b", adapters["lora"])
            bank.remove("b")
        assert {name: buffer.shape for name, buffer in bank.model.named_buffers()} == shapes

    def test_bank_grows_past_its_capacity(self, adapters):
        """More adapters, a higher rank and new targets than there was room for; a spare slot for a replacement is kept."""
        bank = filled({name: adapters[name] for name in ("lora", "rslora", "biases")}, capacity=1, max_rank=1)
        names = ["biases", "lora", "rslora", "base"]
        shapes = {name: buffer.shape for name, buffer in bank.model.named_buffers()}
        bank.replace("lora", adapters["lora"])
        assert {name: buffer.shape for name, buffer in bank.model.named_buffers()} == shapes
        found = answer(bank, names)
        for i, name in enumerate(names):
            expected = logits(adapters[name], rows=4)[i]
            torch.testing.assert_close(found[i, : len(expected)], expected)

    @pytest.mark.parametrize("call", ["add", "replace"])
    @pytest.mark.parametrize("fault", ["absent", "damaged", "other base", "other use", "labels"])
    def test_failing_add_leaves_the_bank_bit_for_bit(self, adapters, tmp_path, call, fault):
        """Whatever is wrong with the newcomer."""
        error, match, source = self.broken(fault, tmp_path)
        bank = filled({"old": adapters["lora"], "dora": adapters["dora"]})
        before, answers = record(bank.model), answer(bank, ["old", "dora", "base"])
        with pytest.raises(error, match=match):
            bank.add("new", source) if call == "add" else bank.replace("old", source)
        assert record(bank.model) == before
        assert bank.adapters == ("old", "dora")
        assert torch.equal(answer(bank, ["old", "dora", "base"]), answers)

    def broken(self, fault, folder):
        """An adapter that can't be taken in, and the error that says so."""
        model = trained()
        if fault == "other base":
            with torch.no_grad():
                model.distilbert.transformer.layer[0].ffn.lin1.weight[0, 0] += 1
            return BaseMismatchError, "the base model is not the one the adapter was trained on", model
        if fault == "other use":
            block = "distilbert.transformer.layer.1.attention"
            match = f"{block} is a head that is trained in full, and another adapter uses {block}.q_lin in another way"
            return ConfigError, match, trained(head_modules=[block], targets=["lin1"])
        notes = {"labels": ["a", "b"]} if fault == "labels" else {}
        place = save_adapter(model, folder / "adapter", notes=notes)
        if fault == "damaged":
            content = (place / "adapter_model.safetensors").read_bytes()
            (place / "adapter_model.safetensors").write_bytes(content[:-1] + b"x")
        match = {"absent": "can't be read", "damaged": "its SHA-256 is not", "labels": "2 labels and the head 3 outputs"}
        return AdapterFileError, match[fault], place / ("absent" if fault == "absent" else "")

    def test_add_that_fails_half_way_gives_no_name_to_the_slot(self, adapters, monkeypatch):
        """An error in the middle of writing leaves all answers; the next adapter finds the slot clean."""
        bank = filled({"old": adapters["lora"]}, capacity=2)
        answers, write, calls = answer(bank, ["old", "base"]), BankLinear.write, []

        def failing(layer, slot, twin):
            calls.append(slot)
            if len(calls) == 3:
                raise MemoryError
            write(layer, slot, twin)

        monkeypatch.setattr(BankLinear, "write", failing)
        with pytest.raises(MemoryError):
            bank.add("new", adapters["dora"])
        monkeypatch.undo()
        assert torch.equal(answer(bank, ["old", "base"]), answers)
        assert bank.adapters == ("old",)
        bank.add("new", adapters["bare"])
        torch.testing.assert_close(answer(bank, ["new"]), logits(adapters["bare"], rows=1))

    def test_names_are_unique_and_base_is_taken(self, adapters):
        """`replace` says what it does; an unknown name can't be replaced or removed."""
        bank = filled({"lora": adapters["lora"]})
        for name in ("lora", "base", ""):
            with pytest.raises(ConfigError, match=f"the name '{name}' is taken; choose another, or call replace"):
                bank.add(name, adapters["bare"])
        for call in (bank.remove, lambda name: bank.replace(name, adapters["bare"])):
            for name in ("base", "other"):
                with pytest.raises(TargetError, match=f"no adapter is called '{name}'; expected one of lora"):
                    call(name)

    def test_fresh_head_has_to_be_in_the_file(self, adapters):
        """PAINS 1: a random head is nobody's."""
        bank = AdapterBank(tiny("distilbert"), must_cover=["classifier.weight"])
        bank.add("lora", adapters["lora"])
        with pytest.raises(AdapterFileError, match=r"classifier.weight is random in the model and not in the file"):
            bank.add("bare", adapters["bare"])


class TestModel:
    """What the bank does to the model."""

    def test_unwrap_gives_the_model_back(self, adapters):
        """Modules, bits, modes and requires_grad, as if nothing had happened."""
        model = tiny("distilbert")
        model.classifier.weight.requires_grad_(False)
        before = record(model)
        bank = AdapterBank(model)
        bank.add("biases", adapters["biases"])
        assert record(model) != before
        assert bank.unwrap() is model
        assert record(model) == before
        assert bank.adapters == ()

    def test_nothing_in_a_bank_requires_a_gradient(self, adapters):
        """It serves; base and adapters are frozen, and a gradient of the inputs flows through."""
        bank = filled({"lora": adapters["lora"]})
        assert not any(t.requires_grad for t in (*bank.model.parameters(), *bank.model.buffers()))
        embedded = torch.randn(2, 5, 32, requires_grad=True)
        with bank.rows(["lora", "base"]) as model:
            model(inputs_embeds=embedded).logits.sum().backward()
        assert embedded.grad.any()

    def test_bank_needs_a_plain_model(self, adapters):
        """No adapter, no other bank; and a bank's model takes no adapter by another door."""
        with pytest.raises(ConfigError, match="has an adapter or a bank already; expected a plain model"):
            AdapterBank(trained())
        bank = filled({"lora": adapters["lora"]})
        with pytest.raises(ConfigError, match="has an adapter or a bank already"):
            AdapterBank(bank.model)
        with pytest.raises(ConfigError, match="is a BankLinear, which lora can't adapt"):
            inject(bank.model, LoRAConfig(targets=["q_lin"]))
        with pytest.raises(ConfigError, match="the model has no adapter"):
            save_adapter(bank.model, "nowhere")

    @pytest.mark.parametrize("options", [{"capacity": 0}, {"max_rank": 0}])
    def test_bank_needs_room(self, options):
        """At least one."""
        with pytest.raises(ConfigError, match="is 0; expected at least 1"):
            AdapterBank(tiny("distilbert"), **options)

    def test_compiled_model_stays_compiled(self, adapters):
        """PAINS 37: one graph for every assignment, strength and set of adapters within the capacity."""
        bank = filled({"lora": adapters["lora"]}, capacity=3, max_rank=4)
        graphs = []

        def backend(graph, _inputs):
            graphs.append(graph)
            return graph.forward

        compiled = torch.compile(bank.model, backend=backend, fullgraph=True)

        def check(names, **options):
            with torch.no_grad(), bank.rows(names, **options):
                found = compiled(**token_batch(rows=4)).logits
            assert torch.equal(found, answer(bank, names, **options))

        check(["lora", "base", "base", "lora"])
        check(["base"] * 4, strength=0.5)
        bank.add("bare", adapters["bare"])
        check(["lora", "bare", "base", "bare"], strength=[1, 2, 3, 4])
        bank.replace("lora", adapters["bare"])
        bank.add("pissa", adapters["pissa"])
        check(["lora", "bare", "pissa", "bare"])
        bank.remove("bare")
        check(["lora", "base", "pissa", "lora"])
        assert len(graphs) == 1


class Normed(nn.Module):
    """A model of no library, with a bias that is added inside."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lin, self.norm = nn.Linear(6, 4), nn.GroupNorm(2, 4)

    def forward(self, x):
        return self.norm(self.lin(x))


def normed(bias):
    """Adapted, moved."""
    model = inject(Normed(), LoRAConfig(rank=2, targets=["lin"], head_modules=[], bias=bias))
    move_adapter(model)
    return model.eval()


def test_model_of_no_library_can_have_a_bank():
    """Nothing but modules is asked of it; there are no labels then."""
    bank, x = AdapterBank(Normed()), torch.randn(2, 6)
    bank.add("one", normed("lora_only"))
    assert bank.labels == {"base": (), "one": ()}
    with bank.rows(["one", "base"]) as model, torch.no_grad():
        torch.testing.assert_close(model(x), torch.stack([normed("none")(x)[0], Normed()(x)[1]]))


def test_trained_bias_of_a_module_that_adds_it_inside_is_refused():
    """A change of the output would not be a change of the bias."""
    bank = AdapterBank(Normed())
    with pytest.raises(ConfigError, match="norm: the trained bias of a GroupNorm can't stand in a bank"):
        bank.add("one", normed("all"))


def test_separate_model_loaded_from_a_folder_answers_as_the_bank(tmp_path, adapters):
    """The same folder through both doors."""
    folder = save_adapter(adapters["dora"], tmp_path / "a")
    separate, bank = tiny("distilbert", labels=5), AdapterBank(tiny("distilbert"))
    load_adapter(separate, folder)
    bank.add("dora", folder)
    torch.testing.assert_close(answer(bank, ["dora"] * 3), logits(separate, rows=3))
