"""The optimizer, the schedule and the loop. Read loop.py first."""

from .checkpoint import Checkpoints as Checkpoints
from .config import TrainingConfig as TrainingConfig
from .log import MetricsLog as MetricsLog
from .loop import TrainResult as TrainResult
from .loop import train as train
from .optimizer import build_optimizer as build_optimizer
from .schedule import learning_rate_factor as learning_rate_factor
from .tensorboard import tensorboard_listener as tensorboard_listener
