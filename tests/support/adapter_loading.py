"""Whether the installed transformers loads PEFT's adapters by itself, asked of it and not of its version."""

from functools import cache
from tempfile import TemporaryDirectory

import torch
from support.families import tiny


@cache
def transformers_loads_adapters() -> bool:
    """Whether `model.load_adapter(folder)` reads what PEFT itself saved: transformers before 5.6 skips every tensor."""
    import peft

    random_state = torch.get_rng_state()
    written, plain = peft.get_peft_model(tiny("distilbert"), peft.LoraConfig(target_modules=["q_lin"])), tiny("distilbert")
    for tensor in lora_tensors(written):
        torch.nn.init.constant_(tensor, 0.5)
    with TemporaryDirectory() as folder:
        written.save_pretrained(folder)
        plain.load_adapter(folder)
    torch.set_rng_state(random_state)
    loaded = lora_tensors(plain)
    return len(loaded) > 0 and all(bool((tensor == 0.5).all()) for tensor in loaded)


def lora_tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    """Every A and B."""
    return [parameter for name, parameter in model.named_parameters() if "lora_" in name]
