"""Changes of the built pages: a search index that stays small, and notebooks whose links and pictures work."""

import re
from typing import Any

CODE = (
    '<details(?= class="mkdocstrings-source")',
    '<div(?= class="doc-signature)',
    '<div(?= class="language-python)',
    '<div(?= class="clipboard-copy-txt")',
)
UNSEARCHED = re.compile("|".join(CODE))
MATHJAX = re.compile(r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", re.DOTALL)
PAGE_LINK = re.compile(r'href="(?!https?:)([\w/-]+)\.(?:md|ipynb)(#[\w-]*)?"')


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Leave Python code, and tables of the reference, out of the search index, which every page fetches."""
    if page.url.startswith("reference/"):
        html = html.replace("<table", "<table data-search-exclude")
    if page.file.src_uri.endswith(".ipynb"):
        html = notebook_links(html).replace("<pre", "<pre data-search-exclude")
    return UNSEARCHED.sub(r"\g<0> data-search-exclude", html)


def notebook_links(html: str) -> str:
    """Return a notebook's page with the links to other pages as the site has them, one folder up."""
    html = PAGE_LINK.sub(lambda link: f'href="../{link[1]}/{link[2] or ""}"', html)
    return html.replace('src="assets/', 'src="../assets/')


def on_post_page(output: str, **_: Any) -> str:
    """Drop MathJax's settings: KaTeX draws the formulas of notebooks too."""
    return MATHJAX.sub("", output)
