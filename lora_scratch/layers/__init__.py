"""The mathematics: one idea in every file, with torch alone. Start with lora.py."""

from .conv1d import LoRAConv1D as LoRAConv1D
from .conv1d import stores_in_out as stores_in_out
from .dora import DoRALinear as DoRALinear
from .embedding import LoRAEmbedding as LoRAEmbedding
from .initialization import METHODS as METHODS
from .initialization import OFFSET_METHODS as OFFSET_METHODS
from .initialization import NoRandomNumbers as NoRandomNumbers
from .initialization import PrincipalInputs as PrincipalInputs
from .initialization import initialize as initialize
from .initialization import stored_alpha as stored_alpha
from .lora import AdapterLayer as AdapterLayer
from .lora import LoRALinear as LoRALinear
from .lora import at_least_float32 as at_least_float32
from .lora import feature_counts as feature_counts
from .lora import lora_scaling as lora_scaling
from .nf4 import NF4Linear as NF4Linear
from .offset import OffsetLoRALinear as OffsetLoRALinear
from .offset import stored_tensors as stored_tensors
from .registry import adapter_class as adapter_class
from .registry import adapter_variants as adapter_variants
from .registry import register as register
