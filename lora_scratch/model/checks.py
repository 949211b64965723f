"""Check on opening that model and tokenizer fit, and that a text has the same logits alone and in a batch.

    base = check_base(load_base(name))

What has one right answer is repaired and is a line of `base.notes`; the rest is an error of one line.
The check takes two forward passes of a few tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import ModelError
from .base import Base
from .exact_attention import make_attention_exact
from .families import LEFT, default_heads, family_note, family_of
from .forward import need_equal_lengths, pad_as_family, set_equal_lengths
from .precision import precision_note

SHORT = "a film is good"
LONG = " and ".join([SHORT] * 4)
IDS, MASK = "input_ids", "attention_mask"
ROUNDING = 3e-5  # of the largest logit; float32's rounding is below 1e-6 for twelve layers
NO_PADDING = "padding changes its logits: evaluation and prediction batch rows of one length, and training pads"


@dataclass(frozen=True)
class Probe:
    """What one forward pass of a short text showed.

    Args:
        positions: how many tokens of a row the model has positions for; None if there is no limit.
        unused: the layers whose output does not reach the logits.
        difference: the largest difference between the logits of the text alone and padded, as a
            share of the largest logit.
    """

    positions: int | None
    unused: tuple[str, ...]
    difference: float


@torch.inference_mode(False)
def check_base(base: Base) -> Base:
    """Check a base that was just loaded, and repair what has one right answer.

    The tokenizer's `model_max_length` becomes at most the number of the model's positions.

    Returns:
        The base with `unused` and `notes` filled in.

    Raises:
        ModelError: model and tokenizer do not fit, or the model can't compute a text.
    """
    model, tokenizer = base.model, base.tokenizer
    notes = [*base.notes, *make_attention_exact(model), *check_tokens(model, tokenizer, where=base.name)]
    probe = probe_model(model, tokenizer, where=base.name)
    if probe.positions is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, probe.positions)
    if probe.difference > ROUNDING:
        set_equal_lengths(model)
    if need_equal_lengths(model):
        notes.append(NO_PADDING)
    if probe.unused:
        first, count = probe.unused[0], len(probe.unused)
        notes.append(f"{count} layers have no effect on its logits, first {first}: default targets leave them out")
    notes += filter(None, [family_note(model), precision_note(model)])
    return replace(base, unused=probe.unused, notes=tuple(notes))


def check_tokens(model: Any, tokenizer: Any, *, where: str) -> list[str]:
    """Make config and tokenizer agree on padding. Return what was decided.

    Raises:
        ModelError: the tokenizer has tokens that the model has no embedding for.
    """
    rows, tokens = model.get_input_embeddings().num_embeddings, len(tokenizer)
    if tokens > rows:
        fault, expected = f"the tokenizer has {tokens:,} tokens", f"at most {rows:,}, the model's embeddings"
        remedy = "call model.resize_token_embeddings(len(tokenizer)) and save both again"
        raise ModelError(fault, where=where, expected=expected, remedy=remedy)
    if (family := family_of(model)) and family.padding == LEFT:
        tokenizer.padding_side = "left"  # for those who load an export
    return _agree_on_padding(model.config, tokenizer, rows)


def _agree_on_padding(config: Any, tokenizer: Any, rows: int) -> list[str]:
    """Set the padding token of both: the model's own, else the tokenizer's, else the end of a text."""
    own, other = _valid(getattr(config, "pad_token_id", None), rows), _valid(tokenizer.pad_token_id, rows)
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.unk_token_id, 0)
    pad = next(token for token in (own, other, *ends) if token is not None)
    notes = []
    if own is None and other is None:
        notes = [f"it has no padding token: {tokenizer.convert_ids_to_tokens(pad)} ({pad}) is used"]
    elif None not in (own, other) and own != other:
        notes = [f"the model pads with token {own}, its tokenizer with {other}: {own} is used"]
    config.pad_token_id = pad
    if other != pad:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    return notes


def _valid(token: int | None, rows: int) -> int | None:
    return token if token is not None and 0 <= token < rows else None


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Leave oneDNN alone: its first kernel fixes how many it keeps, for the work to choose (fast/onednn.py)."""
    mkldnn: Any = torch.backends.mkldnn
    before, mkldnn.enabled = mkldnn.enabled, False
    try:
        yield
    finally:
        mkldnn.enabled = before


@_without_onednn()
def probe_model(model: Any, tokenizer: Any, *, where: str) -> Probe:
    """Run a short text alone and padded beside a longer one, in evaluation mode.

    Raises:
        ModelError: the model can't compute such a text, or no numbers for it.
    """
    try:
        short, long = (tokenizer(text)["input_ids"] for text in (SHORT, LONG))
        if not short:
            return Probe(None, (), 0.0)
        with _PositionTables(len(short)) as tables:
            alone, unused = _traced_logits(model, _batch(model, [short]))
        with torch.no_grad():
            padded = _logits(model, _batch(model, [short, long]))
    except Exception as error:  # a model's own code raises any type
        fault = f"it can't compute a short text: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        expected = "a classifier that reads token ids and an attention mask"
        raise ModelError(fault, where=where, expected=expected) from error
    if not padded.isfinite().all():
        remedy = "its weights are finite but too large, or damaged: pass another --model"
        raise ModelError("it computes NaN or infinity for a short text", where=where, expected="numbers", remedy=remedy)
    largest = float(padded.abs().max())
    difference = float((alone[0] - padded[0]).abs().max()) / max(largest, 1e-12)
    return Probe(min(tables.positions, default=None), unused, difference)


def _batch(model: Any, rows: list[list[int]]) -> dict[str, Tensor]:
    width, pad = max(map(len, rows)), model.config.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {IDS: ids, MASK: mask}


def _logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    logits: Tensor = model(**pad_as_family(model, inputs)).logits
    return logits


def _traced_logits(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, tuple[str, ...]]:
    """Return the logits, and the layers outside the head that have no effect on them."""
    heads = tuple(f"{head}." for head in default_heads(model))
    layers = {name: m for name, m in model.named_modules() if _has_weight(m) and not f"{name}.".startswith(heads)}
    with torch.enable_grad(), _outputs(model, layers) as outputs:  # also where the caller needs no gradients
        logits = _logits(model, inputs)
        # other factors a logit: the sum of two logits can be constant
        total = (logits * torch.arange(1, logits.shape[-1] + 1)).sum()
    names, tensors = [name for name, _ in outputs], [tensor for _, tensor in outputs]
    gradients = torch.autograd.grad(total, tensors, allow_unused=True) if tensors else ()
    used = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None and gradient.any()}
    return logits.detach(), tuple(name for name in layers if name not in used)


def _has_weight(module: nn.Module) -> bool:
    """Return whether it is a linear layer of any kind: a weight of two dimensions, and no embedding."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() == 2 and not isinstance(module, nn.Embedding)


@contextmanager
def _outputs(model: Any, layers: dict[str, nn.Module]) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect the layers' outputs in a graph that starts there: no weight gets a gradient."""
    outputs: list[tuple[str, Tensor]] = []

    def collect(name: str, output: Tensor) -> Tensor:
        """Note an output; let the graph start here if it starts nowhere before."""
        output = output if output.requires_grad else output.detach().requires_grad_()
        outputs.append((name, output))
        return output.clone()  # which the model may change in place

    hooks = [m.register_forward_hook(lambda *args, name=n: collect(name, args[2])) for n, m in layers.items()]
    required = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in required:
            parameter.requires_grad_(True)


class _PositionTables(TorchFunctionMode):
    """Finds the tables of positions: the embeddings that are read with the numbers n, n + 1, n + 2, ..."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens  # of the row; a model can pad it on its own
        self.positions: list[int] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function; note how many positions a table has from the first one that was read."""
        if function is F.embedding and (first := self._first_position(args[0])) is not None:
            self.positions.append(int(args[1].shape[0]) - first)
        return function(*args, **(kwargs or {}))

    def _first_position(self, ids: Tensor) -> int | None:
        if ids.shape[-1] < self.tokens or ids.numel() > ids.shape[-1]:
            return None
        row = ids.flatten()[: self.tokens]
        return int(row[0]) if bool((row.diff() == 1).all()) else None
