"""What the scripts share: their options, the presets, opening what a name stands for, and how a command ends."""

from .bank import ServedBank as ServedBank
from .bank import classify_rows as classify_rows
from .bank import open_bank as open_bank
from .card import model_card as model_card
from .classify import Classified as Classified
from .classify import Classifier as Classifier
from .combination import Combination as Combination
from .combination import combined as combined
from .combination import open_parts as open_parts
from .combination import save_combination as save_combination
from .command import run_command as run_command
from .opening import encode_rows as encode_rows
from .opening import open_base as open_base
from .opening import open_splits as open_splits
from .opening import relabel as relabel
from .opening import resolve_adapter as resolve_adapter
from .options import DataOptions as DataOptions
from .options import ModelOptions as ModelOptions
from .options import RunOptions as RunOptions
from .options import parse as parse
from .run_folder import check_free as check_free
from .run_folder import new_run_folder as new_run_folder
from .saved import SavedAdapter as SavedAdapter
from .saved import open_adapter as open_adapter
