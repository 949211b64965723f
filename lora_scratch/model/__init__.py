"""The pretrained model that gets adapted."""

from .base import Base as Base
from .base import load_base as load_base
