"""LoRA written from scratch in pure PyTorch. Start reading at `layers/lora.py`."""

from .adapter import LoRAConfig as LoRAConfig
from .adapter import adapter_layers as adapter_layers
from .adapter import count_parameters as count_parameters
from .adapter import disabled as disabled
from .adapter import inject as inject
from .adapter import merge_all as merge_all
from .adapter import merge_and_remove as merge_and_remove
from .adapter import remove_adapter as remove_adapter
from .adapter import unmerge_all as unmerge_all
from .deploy.bank import AdapterBank as AdapterBank
from .errors import LoraScratchError as LoraScratchError
from .layers import AdapterLayer as AdapterLayer
from .layers import LoRALinear as LoRALinear
from .serialization import load_adapter as load_adapter
from .serialization import save_adapter as save_adapter
