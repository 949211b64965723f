"""docs/: its snippets run, and its commands and links exist."""

import re
import sys
from pathlib import Path

import pytest
from support.pages import blocks, commands, is_ours, missing_flags
from support.pictures import quick_pictures

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder to write to, from which docs/lora_fa.py and docs/vera.py can be imported; what they register is forgotten."""
    from lora_scratch.layers import registry

    monkeypatch.setattr(registry, "_classes", {variant: dict(classes) for variant, classes in registry._classes.items()})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(DOCS))
    yield tmp_path
    for name in ("lora_fa", "vera"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if blocks(text, "python")])
def test_snippets_of_a_page_run_in_order(page, elsewhere):
    """As a reader would paste them, one after the other."""
    exec(compile("\n".join(blocks(PAGES[page], "python")), page, "exec"), {"__name__": page})  # noqa: S102


@pytest.mark.parametrize("line", sorted({line for text in PAGES.values() for line in commands(text) if is_ours(line)}))
def test_commands_name_flags_that_exist(line):
    """Every flag is in the `--help` of the command."""
    assert missing_flags(line) == []


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page):
    """Relative ones; nothing is fetched."""
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[page]):
        if "://" not in target:
            assert ((DOCS / page).parent / target).resolve().exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    """`lora_scratch/...`, `scripts/...` and `tests/...` in backticks."""
    for name in re.findall(r"`((?:lora_scratch|scripts|tests)/[\w/.-]+)`", PAGES[page]):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if "`test_" in text])
def test_tests_that_a_page_names_exist(page):
    """`test_...` in backticks is the whole name of one."""
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", PAGES[page]):
        assert f"def {name}(" in tests, name


def test_the_page_of_models_has_the_table_of_families():
    """Every family with its default targets, and whether it runs without padding or needs rows of one length."""
    from lora_scratch.model.families import FAMILIES, UNSUITED

    lines = [line.split("|")[1:] for line in PAGES["how-to/own-model.md"].splitlines() if line.startswith("| `")]
    rows = {name: cells for cells in lines for name in re.findall(r"`([\w-]+)`", cells[0])}
    assert rows.keys() == FAMILIES.keys()
    for name, family in FAMILIES.items():
        _, targets, notes, _ = rows[name]
        assert tuple(re.findall(r"`([\w.]+)`", targets)) == family.targets
        assert ("no padding" in notes, "rows of one length" in notes) == (bool(family.blocks), family.padding == UNSUITED)


def test_vera_is_a_variant_of_the_commands_too(elsewhere, monkeypatch, capsys):
    """Trained, reported and taken apart, without a tensor by LoRA's names; what needs them says so."""
    from lora_scratch.__main__ import main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["lora-scratch", "--import", "vera", *map(str, words)])
        main()
        return capsys.readouterr().out

    few = ["--limit_train", 64, "--limit_eval", 24, "--epochs", 1, "--linear_probe", "false"]
    with quick_pictures():
        assert "report: run/report.json" in run("train", "--variant", "vera", *few, "--output_dir", "run")
    assert " 8 " in run("inspect", "run/adapter")  # two vectors, and a ΔW of rank 8
    assert "nothing wrong" in run("inspect", "run/adapter", "--verify", "--model", "demo")
    for line in (["compress", "run/adapter", "--output", "small"], ["export", "split", "run/adapter", "--output", "parts"]):
        with pytest.raises(SystemExit, match=r"^1$"):
            run(*line)
        assert "has other tensors than LoRA's A and B" in capsys.readouterr().err


def test_lora_fa_is_short_obeys_the_laws_trains_and_loads_in_peft(elsewhere):
    """A new layer in under 60 lines and without touching another room: proven, injected, trained, saved, read by PEFT."""
    import peft
    import torch
    from support.tiny import tiny_distilbert, tiny_rows
    from torch import nn

    from lora_scratch.adapter import LoRAConfig, inject
    from lora_scratch.serialization import save_adapter
    from lora_scratch.testing import LawError, check_all
    from lora_scratch.training import TrainingConfig, train

    lora_fa = __import__("lora_fa")
    assert len((DOCS / "lora_fa.py").read_text(encoding="utf-8").splitlines()) < 60

    def make():
        return lora_fa.LoRAFALinear(nn.Linear(6, 4), rank=2, alpha=3)

    check_all(make, torch.randn(5, 6), frozen=["lora_A.weight"])
    with pytest.raises(LawError, match=r"lora_A\.weight has the gradient None"):
        check_all(make, torch.randn(5, 6))
    base = tiny_distilbert()
    base.save_pretrained("base")
    inject(base, LoRAConfig(rank=4, alpha=8, variant="lora_fa"), seed=0)
    drawn = {name: p.clone() for name, p in base.named_parameters() if "lora_A" in name}
    settings = TrainingConfig(epochs=2, learning_rate=1e-2, device="cpu", precision="fp32")
    train(base, tiny_rows(16), tiny_rows(16), settings, pad_token_id=0, show_progress=False)
    assert all(torch.equal(p, drawn[name]) for name, p in base.named_parameters() if "lora_A" in name)
    save_adapter(base, "adapter", base_model="base")
    theirs = peft.PeftModel.from_pretrained(type(base).from_pretrained("base"), "adapter").eval()
    ids = torch.randint(5, 40, (2, 7))
    assert torch.allclose(theirs(ids).logits, base.eval()(ids).logits, atol=1e-5)


def test_vera_is_short_obeys_the_laws_with_its_bias_or_without_and_comes_back_from_its_file(elsewhere):
    """Tensors of its own: proven, injected, trained, saved and loaded in the same bits, without touching another room."""
    import torch
    from support.tiny import tiny_distilbert, tiny_rows
    from torch import nn

    from lora_scratch.adapter import LoRAConfig, inject
    from lora_scratch.serialization import load_adapter, save_adapter
    from lora_scratch.testing import check_all
    from lora_scratch.training import TrainingConfig, train

    vera = __import__("vera")
    assert len((DOCS / "vera.py").read_text(encoding="utf-8").splitlines()) < 60
    for bias in (True, False):
        check_all(lambda bias=bias: vera.VeRALinear(nn.Linear(6, 4, bias=bias), rank=2, alpha=3), torch.randn(5, 6))
    layers = [vera.VeRALinear(nn.Linear(6, 4), rank=2) for _ in range(2)]
    assert torch.equal(layers[0].A, layers[1].A)
    assert torch.equal(layers[0].B, layers[1].B)
    base = tiny_distilbert()
    inject(base, LoRAConfig(rank=4, alpha=8, variant="vera"), seed=0)
    settings = TrainingConfig(epochs=2, learning_rate=1e-2, device="cpu", precision="fp32")
    train(base, tiny_rows(16), tiny_rows(16), settings, pad_token_id=0, show_progress=False)
    assert all(p.abs().sum() > 0 for name, p in base.named_parameters() if name.endswith(".b"))
    save_adapter(base, "adapter", base_model="base")
    again = tiny_distilbert()
    load_adapter(again, "adapter")
    ids = torch.randint(5, 40, (2, 7))
    assert torch.equal(again.eval()(ids).logits, base.eval()(ids).logits)
