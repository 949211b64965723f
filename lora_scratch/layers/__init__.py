"""The mathematics. Each file is one idea, imports torch alone, and reads like its paper. Start with lora.py."""

from .conv1d import LoRAConv1D as LoRAConv1D
from .conv1d import stores_in_out as stores_in_out
from .dora import DoRALinear as DoRALinear
from .embedding import LoRAEmbedding as LoRAEmbedding
from .initialisation import METHODS as METHODS
from .initialisation import OFFSET_METHODS as OFFSET_METHODS
from .initialisation import NoRandomNumbers as NoRandomNumbers
from .initialisation import PrincipalInputs as PrincipalInputs
from .initialisation import initialise as initialise
from .initialisation import stored_alpha as stored_alpha
from .lora import AdapterLayer as AdapterLayer
from .lora import LoRALinear as LoRALinear
from .lora import at_least_float32 as at_least_float32
from .lora import lora_scaling as lora_scaling
from .nf4 import NF4Linear as NF4Linear
from .offset import OffsetLoRALinear as OffsetLoRALinear
from .offset import stored_tensors as stored_tensors
from .registry import adapter_class as adapter_class
from .registry import adapter_variants as adapter_variants
from .registry import register as register
