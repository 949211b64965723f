"""Two changes of the built pages: a search index that stays small, and no empty script in notebooks."""

import re
from typing import Any

CODE = ("details.mkdocstrings-source", "div.doc-signature", "div.language-python", "div.jp-Cell jp-CodeCell")
UNSEARCHED = re.compile("|".join(f'<{tag}(?= class="{name})' for tag, name in (start.split(".") for start in CODE)))
MATHJAX = re.compile(r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", re.DOTALL)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Leave Python code, and tables of the reference, out of the search index, which every page fetches."""
    if page.url.startswith("reference/"):
        html = html.replace("<table", "<table data-search-exclude")
    return UNSEARCHED.sub(r"\g<0> data-search-exclude", html)


def on_post_page(output: str, **_: Any) -> str:
    """Drop MathJax's settings: KaTeX draws the formulas of notebooks too."""
    return MATHJAX.sub("", output)
