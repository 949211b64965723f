"""From a model to an adapted model, and its file.

`config.py` what to adapt, `targets.py` names to modules, `tying.py` shared weights, `plan.py` what would be adapted,
`inject.py` there and back, `eva.py` a start that looks at data, `switches.py` off, scaled and merged, `state.py` what is
remembered, `fingerprint.py` whose weights, `peft_format.py` the names in the file, `provenance.py` what
PEFT has no field for, `files.py` save and load, `anatomy.py` what was learnt, `walk.py` a layer's steps on real numbers,
`subspace.py` what two of them have in common, `verify.py` what is wrong with a folder,
`bank.py` many adapters in one model, `twin.py` how it reads them, `update.py` an adapter taken out of its model,
`arithmetic.py` sums of those, `compression.py` the ranks they need, `rounding.py` what is left of an update in a narrower
dtype, `quantize.py` the base in four bits."""

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
