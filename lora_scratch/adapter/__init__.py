"""From a model to an adapted model, and its file.

`config.py` what to adapt, `targets.py` names to modules, `inject.py` there and back, `fingerprint.py` whose weights,
`peft_format.py` the names in the file, `files.py` save and load.
"""

from .config import LoRAConfig as LoRAConfig
from .files import load_adapter as load_adapter
from .files import read_provenance as read_provenance
from .files import save_adapter as save_adapter
from .fingerprint import fingerprint as fingerprint
from .inject import ParameterCount as ParameterCount
from .inject import adapter_layers as adapter_layers
from .inject import check_trainable as check_trainable
from .inject import count_parameters as count_parameters
from .inject import disabled as disabled
from .inject import inject as inject
from .inject import is_adapted as is_adapted
from .inject import merge_all as merge_all
from .inject import merge_and_remove as merge_and_remove
from .inject import remove_adapter as remove_adapter
from .inject import unmerge_all as unmerge_all
