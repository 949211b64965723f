"""From a model to an adapted model and back. Start with inject.py."""

from .config import LoRAConfig as LoRAConfig
from .inject import check_trainable as check_trainable
from .inject import inject as inject
from .inject import remove_adapter as remove_adapter
from .plan import Plan as Plan
from .plan import dry_run as dry_run
from .quantize import BASE_PRECISIONS as BASE_PRECISIONS
from .quantize import FULL as FULL
from .quantize import NF4 as NF4
from .quantize import QuantizationReport as QuantizationReport
from .quantize import base_precision as base_precision
from .quantize import dequantize_base as dequantize_base
from .quantize import quantize_base as quantize_base
from .state import ParameterCount as ParameterCount
from .state import adapter_layers as adapter_layers
from .state import count_parameters as count_parameters
from .state import is_adapted as is_adapted
from .toggles import disabled as disabled
from .toggles import merge_all as merge_all
from .toggles import merge_and_remove as merge_and_remove
from .toggles import scaled as scaled
from .toggles import unmerge_all as unmerge_all
from .toggles import without as without
