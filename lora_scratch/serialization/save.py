"""Write an adapter folder: PEFT's two files, provenance.json and the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from ..adapter.quantize import base_precision
from ..errors import LoraScratchError
from ..runtime.atomic import new_folder, write_bytes, write_json, write_text
from ..runtime.paths import typed_path
from .adapter_folder import CARD, CONFIG, PROVENANCE, WEIGHTS
from .contents import AdapterContents
from .fingerprint import Fingerprint, file_sha256
from .peft_format import to_peft_config
from .provenance import FORMAT, Provenance, sealed

FSDP = "FullyShardedDataParallel"  # torch's first one; the second one makes DTensors, which have a full_tensor()


def save_adapter(
    model: nn.Module,
    folder: str | Path,
    *,
    base_model: str = "",
    base: Fingerprint | None = None,
    card: str = "",
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write the adapter of `model` to `folder`, whole or not at all. An old folder is replaced.

    Args:
        base_model: the name that others load the base by.
        base: the base's fingerprint if it is known already; hashed here otherwise.
        card: the text of the model card.
        notes: the history of the adapter (labels, data, training, versions), for provenance.json.

    Raises:
        LoraScratchError: a trainable tensor that the file would not hold, a folder with other
            files, notes that could not be read again, or a place that can't be written to.
    """
    contents = AdapterContents.of(model)
    _check_place(Path(folder))
    _check_whole(contents)
    _check_complete(contents)
    weights, own = contents.as_bytes(), contents.needs_own_format
    digests = base or contents.fingerprint()
    record = {"name": base_model, "precision": base_precision(model), "tensors": digests}
    provenance = _provenance(contents, notes or {}, base=record, adapter_sha256=file_sha256(weights))
    with new_folder(Path(folder)) as place:
        write_bytes(place / WEIGHTS, weights)
        in_out = contents.stores_in_out
        config = to_peft_config(contents.config, base_model=base_model, fan_in_fan_out=in_out, own=own)
        write_text(place / CONFIG, json.dumps(config, indent=2, sort_keys=True, allow_nan=False))  # no newline, as PEFT
        write_json(place / PROVENANCE, provenance.as_json())
        write_text(place / CARD, card or _plain_card(base_model, own=own))
    return Path(folder)


def _provenance(contents: AdapterContents, notes: Mapping[str, Any], **entries: Any) -> Provenance:
    document = {
        **notes,
        **entries,
        "format": FORMAT,
        "config": asdict(contents.config),
        "seed": contents.seed,
        "modules": contents.settings,
        "dtypes": sorted({str(t.dtype).removeprefix("torch.") for t in contents.tensors.values()}),
    }
    return Provenance.from_json(sealed(document), where="the notes for save_adapter")


def _check_place(folder: Path) -> None:
    """Refuse a folder that holds other files: replacing it would remove them."""
    typed_path(folder, flag="save_adapter", written=True)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if others := sorted(names - {WEIGHTS, CONFIG, PROVENANCE, CARD}):
        raise LoraScratchError(
            f"the folder holds other files: {', '.join(others[:5])}",
            where=str(folder),
            expected="an adapter folder to replace",
            remedy="choose a new or empty folder",
        )


def _check_whole(contents: AdapterContents) -> None:
    """Refuse tensors of which every process holds a part (FSDP)."""
    parts = [name for name, tensor in contents.tensors.items() if hasattr(tensor, "full_tensor")]
    parts += [name for name, module in contents.model.named_modules() if type(module).__name__ == FSDP]
    if parts:
        raise LoraScratchError(
            "the adapter is split over the processes (FSDP)",
            where="save_adapter",
            remedy="leave A, B and the heads out of the split (ignored_params), as model/sharding.py does, or load the "
            "gathered state_dict() into a model that is not split",
        )


def _check_complete(contents: AdapterContents) -> None:
    written = {tensor.data_ptr() for tensor in contents.tensors.values()}
    # the factors of pissa and olora are computed from these
    written |= {p.data_ptr() for layer in contents.layers.values() for p in layer.adapter_tensors().values()}
    trained = {name: p for name, p in contents.model.named_parameters() if p.requires_grad}
    lost = [name for name, p in trained.items() if p.data_ptr() not in written]
    if lost:
        raise LoraScratchError(
            f"trained but not part of the adapter: {', '.join(lost[:5])}",
            where="save_adapter",
            remedy="name it in head_modules; what an adapter layer of your own trains belongs in its adapter_tensors()",
        )


def _plain_card(base_model: str, *, own: bool) -> str:
    reader = "with the package that registers its variant" if own else "with PEFT"
    return f"# LoRA adapter\n\nBase model: {base_model or 'not recorded'}. Written by lora-scratch; loads {reader}.\n"
