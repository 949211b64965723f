"""The laws of an adapter layer, for your own tests. Start with laws.py."""

from .evidence import TOLERANCE as TOLERANCE
from .evidence import LawError as LawError
from .evidence import move_adapter as move_adapter
from .evidence import relative_error as relative_error
from .function_laws import check_adapter_tensors as check_adapter_tensors
from .function_laws import check_base_frozen as check_base_frozen
from .function_laws import check_dense_formula as check_dense_formula
from .function_laws import check_dtypes_and_shapes as check_dtypes_and_shapes
from .function_laws import check_gradients as check_gradients
from .function_laws import check_linear_in_scaling as check_linear_in_scaling
from .function_laws import check_low_rank as check_low_rank
from .function_laws import check_zero_start as check_zero_start
from .laws import LAWS as LAWS
from .laws import check_all as check_all
from .state_laws import check_disabled_is_base as check_disabled_is_base
from .state_laws import check_merge_equals_forward as check_merge_equals_forward
from .state_laws import check_merge_refuses_nonfinite as check_merge_refuses_nonfinite
from .state_laws import check_modes_leave_weights as check_modes_leave_weights
from .state_laws import check_unmerge_restores as check_unmerge_restores
