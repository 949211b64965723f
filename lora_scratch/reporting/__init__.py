"""Self-contained HTML pages of a run, an evaluation, a comparison or an adapter's anatomy."""

from .anatomy import anatomy_page as anatomy_page
from .page import Page as Page
from .page import Picture as Picture
from .page import Section as Section
from .page import page_html as page_html
from .page import write_page as write_page
from .run import run_page as run_page
from .title import run_title as run_title
