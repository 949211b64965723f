"""The pictures and formulas of docs/: they show the figures of the pages, in both themes, with words for screen readers."""

import json
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parent.parent.parent / "docs"
SCRIPT = DOCS / "draw_figures.py"
PICTURES = sorted((DOCS / "assets").glob("*.svg"))
DIAGRAMS = {"lora", "run"}  # drawn by hand
PAGES = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
FORMULAS = re.compile(r"\$\$.*?\$\$|\\\(.*?\\\)", re.DOTALL)
NAMES = {"speed", "ladder", "parts", "ranks", "training", "confusion", "spectrum", "modules", "subspaces"}


@pytest.fixture(scope="module")
def script():
    """The functions of docs/draw_figures.py."""
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def words(picture):
    """Return what a screen reader says of a picture."""
    root = ElementTree.fromstring(picture)  # noqa: S314 - our own files
    return root.get("aria-label") or root.findtext("{http://www.w3.org/2000/svg}title")


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_picture_has_words_and_a_dark_side_and_needs_nothing_beside_it(path):
    """No script, no other file, ink for both themes."""
    picture = path.read_text(encoding="utf-8")
    assert len(words(picture)) > 20
    assert "prefers-color-scheme: dark" in picture.replace("scheme:dark", "scheme: dark")
    assert "<script" not in picture
    assert not re.search(r"""(href|url)\W+https?:""", picture)
    assert path.stat().st_size < 60_000


def test_gallery_shows_every_drawn_picture():
    """None is forgotten, and each is committed."""
    shown = set(re.findall(r"\(assets/(\w+)\.svg\)", PAGES["gallery.md"]))
    assert shown == NAMES == {path.stem for path in PICTURES} - DIAGRAMS


@pytest.mark.parametrize("name", ["lora", "confusion"])
def test_pictures_of_the_readme_are_those_of_the_docs_once_for_each_theme(script, name):
    """A README's page has a theme of its own, which a media query inside of the picture does not follow."""
    source = (DOCS / "assets" / f"{name}.svg").read_text(encoding="utf-8")
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    for theme in ("light", "dark"):
        path = f"assets/readme/{name}-{theme}.svg"
        assert f'"docs/{path}"' in readme
        picture = (DOCS / path).read_text(encoding="utf-8")
        assert picture == script.one_theme(source, theme)
        assert "prefers-color-scheme" not in picture
        assert words(picture) == words(source)
    assert script.one_theme(source, "light") != script.one_theme(source, "dark")


def test_pictures_of_tables_show_the_figures_that_the_pages_have(script):
    """A changed table needs `python docs/draw_figures.py`."""
    for name, picture in script.table_pictures().items():
        committed = (DOCS / "assets" / f"{name}.svg").read_text(encoding="utf-8")
        assert words(committed) == words(script.themed(picture)), name


def test_every_picture_can_be_drawn_from_a_run(tmp_path, monkeypatch, capsys):
    """A short run of the demo, its ablation, and figures of section 7."""
    from lora_scratch.__main__ import main

    def run(*line):
        monkeypatch.setattr(sys, "argv", ["lora-scratch", *map(str, line)])
        main()

    monkeypatch.chdir(tmp_path)
    run("train", "--limit_train", 96, "--limit_eval", 48, "--epochs", 1, "--output_dir", "run")
    run("ablate", "run/adapter", "--strengths", 1, "--json", "run/ablation.json")
    grid = [[1 / (i + j + 1) for j in range(8)] for i in range(4)]
    figures = {"between_ranks": [{"of": side, "kind": kind, "grid": grid} for side in ("A", "update") for kind in "qv"]}
    Path("section7.json").write_text(json.dumps(figures), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["draw", "--run", "run", "--section7", ".", "--output", "pictures"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "9 pictures in pictures" in capsys.readouterr().out
    drawn = {path.stem: words(path.read_text(encoding="utf-8")) for path in Path("pictures").glob("*.svg")}
    assert drawn.keys() == NAMES
    assert "q φ(1,1) 1, v φ(1,1) 1" in drawn["subspaces"]


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if FORMULAS.search(text)])
def test_formulas_write_what_has_a_macro_as_that_macro(page):
    """docs/assets/macros.js is the one place that says how an update, a transpose or a norm looks."""
    macros = dict(re.findall(r'"(\\\\\w+)": "(.+?)",', (DOCS / "assets" / "macros.js").read_text(encoding="utf-8")))
    spelled = [tex.replace("\\\\", "\\") for tex in macros.values() if len(tex) > 4 and "#" not in tex]
    assert spelled
    for formula in FORMULAS.findall(PAGES[page]):
        assert not [tex for tex in spelled if tex in formula], formula


def test_formulas_use_every_macro_and_only_macros_that_exist():
    """A short name with a capital letter, as KaTeX has none, is one of ours."""
    names = set(re.findall(r'"\\\\(\w+)":', (DOCS / "assets" / "macros.js").read_text(encoding="utf-8")))
    formulas = " ".join(formula for page in PAGES.values() for formula in FORMULAS.findall(page))
    used = set(re.findall(r"\\([A-Za-z]+)", formulas))
    assert names <= used
    assert {name for name in used if re.fullmatch(r"[A-Z]|d[A-Z]", name)} <= names
