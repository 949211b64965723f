"""From a model to an adapted model, and its file.

`config.py` what to adapt, `targets.py` names to modules, `tying.py` shared weights, `plan.py` what would be adapted,
`inject.py` there and back, `eva.py` a start that looks at data, `switches.py` off, scaled and merged, `state.py` what is
remembered, `fingerprint.py` whose weights, `peft_format.py` the names in the file, `provenance.py` what
PEFT has no field for, `files.py` save and load, `anatomy.py` what was learnt, `walk.py` a layer's steps on real numbers,
`subspace.py` what two of them have in common, `verify.py` what is wrong with a folder,
`bank.py` many adapters in one model, `twin.py` how it reads them, `update.py` an adapter taken out of its model,
`arithmetic.py` sums of those, `compression.py` the ranks they need, `rounding.py` what is left of an update in a narrower
dtype, `quantise.py` the base in four bits.
"""

from .anatomy import Anatomy as Anatomy
from .anatomy import Outline as Outline
from .anatomy import anatomy as anatomy
from .anatomy import outline as outline
from .anatomy import shares_by_depth as shares_by_depth
from .anatomy import shares_by_projection as shares_by_projection
from .arithmetic import add as add
from .arithmetic import average as average
from .arithmetic import combine as combine
from .arithmetic import concatenate as concatenate
from .arithmetic import recompress as recompress
from .arithmetic import scale as scale
from .arithmetic import subtract as subtract
from .bank import AdapterBank as AdapterBank
from .compression import allot as allot
from .compression import decompose as decompose
from .compression import kept_energy as kept_energy
from .compression import truncate as truncate
from .config import LoRAConfig as LoRAConfig
from .files import load_adapter as load_adapter
from .files import problems_on as problems_on
from .files import read_provenance as read_provenance
from .files import save_adapter as save_adapter
from .files import weights_file as weights_file
from .fingerprint import fingerprint as fingerprint
from .inject import check_trainable as check_trainable
from .inject import inject as inject
from .inject import merge_and_remove as merge_and_remove
from .inject import remove_adapter as remove_adapter
from .plan import Plan as Plan
from .plan import dry_run as dry_run
from .quantise import BASE_PRECISIONS as BASE_PRECISIONS
from .quantise import FULL as FULL
from .quantise import NF4 as NF4
from .quantise import QuantisationReport as QuantisationReport
from .quantise import base_precision as base_precision
from .quantise import dequantise_base as dequantise_base
from .quantise import quantise_base as quantise_base
from .rounding import Survival as Survival
from .rounding import survival as survival
from .state import ParameterCount as ParameterCount
from .state import adapter_layers as adapter_layers
from .state import count_parameters as count_parameters
from .state import is_adapted as is_adapted
from .switches import disabled as disabled
from .switches import merge_all as merge_all
from .switches import scaled as scaled
from .switches import unmerge_all as unmerge_all
from .switches import without as without
from .update import AdapterUpdate as AdapterUpdate
from .update import Factors as Factors
from .update import install_update as install_update
from .update import take_update as take_update
from .verify import problems_in_folder as problems_in_folder
from .walk import Step as Step
from .walk import Walk as Walk
from .walk import walk as walk
