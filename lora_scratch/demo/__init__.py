"""The offline demo: a small corpus, tokenizer and foundation model."""

from .corpus import demo_splits as demo_splits
from .foundation import foundation_folder as foundation_folder
from .settings import DEMO_SETTINGS as DEMO_SETTINGS
