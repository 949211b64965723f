"""The mathematics. Each file is one idea, imports torch alone, and reads like its paper. Start with lora.py."""

from .lora import AdapterLayer as AdapterLayer
from .lora import LoRALinear as LoRALinear
from .lora import lora_scaling as lora_scaling
from .registry import adapter_class as adapter_class
from .registry import adapter_variants as adapter_variants
from .registry import register as register
