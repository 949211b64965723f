r"""What a training step of an encoder keeps for its backward pass, from its sizes alone: a formula to be checked.

B rows of T tokens, width d, feed-forward width f, h heads; p is the dropout of the place in question. In numbers a token and
block, on the plain path in float32 (no packing, no autocast):

                                                                     LoRA on q, k, v             every parameter
    inputs of what is trained: query, key, value                     6 d + 3 rank (p = 0: d + 3 rank)       d
                               attention's output projection                                      d (p = 0: 0)
                               feed-forward                                                              d + f
    attention: q, k, v and the weights three times                   3 d + 3 h T (p = 0: 4 d + h)           same
    two norms: input, mean and deviation                             2 d + 4                                same
    GELU's input                                                     f                                      same
    masks of dropout behind attention (not in DistilBERT) and FFN    2 d or d (p = 0: 0)                    same

A frozen linear layer keeps nothing. With dropout on its input, LoRA keeps a dropped copy and a mask for each of q, k and v,
and nothing of the kind is needed without: that is most of the difference between the columns. In the first block there are
no masks, since no gradient goes on to the frozen embeddings; trained embeddings keep their norm's input and a mask.

LoRA on the fast path, in bytes a token and block; c: bytes of the compute dtype, and N real tokens in place of B T:

    x once for query, key and value, what they give, and A x         4 c d + 3 c rank
    their masks, and those of the places above                       3 d, and d or 2 d
    attention's weights once, and their mask                         (c + 1) h T
    two norms, and GELU's input                                      8 d + 16, and c f

The last block keeps that for first tokens alone, without k and v. Of all tokens it keeps x in the compute dtype and, put
together to rows, in float32, and two masks: c d + 4 d + 2 d; of each first token also W_kᵀ q and Σ p x by head,
8 h d, and the weights three times in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

FLOAT32_BYTES = 4
FAMILIES = ("distilbert", "bert", "roberta")


@dataclass(frozen=True)
class EncoderShape:
    """The sizes and dropouts of an encoder of the BERT family, DistilBERT included."""

    width: int
    inner: int
    heads: int
    blocks: int
    hidden_dropout: float
    attention_dropout: float
    drops_after_attention: bool

    @property
    def block_weights(self) -> int:
        """Of the linear layers of a block: query, key, value, output projection and feed-forward."""
        return 4 * self.width**2 + 2 * self.width * self.inner

    @classmethod
    def of(cls, config: Any) -> EncoderShape:
        """From a config of transformers, whose names differ by family.

        Raises:
            ConfigError: another family, whose blocks keep other things.
        """
        if config.model_type not in FAMILIES:
            raise ConfigError(f"no formula for {config.model_type}", where="memory", expected=", ".join(FAMILIES))
        distilbert = config.model_type == "distilbert"
        return cls(
            width=config.hidden_size,
            inner=config.hidden_dim if distilbert else config.intermediate_size,
            heads=config.num_attention_heads,
            blocks=config.num_hidden_layers,
            hidden_dropout=config.dropout if distilbert else config.hidden_dropout_prob,
            attention_dropout=config.attention_dropout if distilbert else config.attention_probs_dropout_prob,
            drops_after_attention=not distilbert,
        )


def lora_activation_bytes(shape: EncoderShape, *, rows: int, tokens: int, rank: int, dropout: float) -> int:
    """With adapters of this rank and dropout on query, key and value of every block."""
    inputs = (6 if dropout else 1) * shape.width + 3 * rank
    first_block_masks = 3 * shape.width if dropout else 0
    numbers = shape.blocks * (inputs + _frozen_block(shape, tokens)) - first_block_masks
    return FLOAT32_BYTES * rows * tokens * numbers


def fast_activation_bytes(shape: EncoderShape, *, rows: int, tokens: int, rank: int, dropout: float, itemsize: int) -> int:
    """`lora_activation_bytes` on the fast path, where no row is shorter than `tokens`; `itemsize`: of the compute dtype."""
    d, h, c = shape.width, shape.heads, itemsize
    masks = (3 if dropout else 0) + (1 + shape.drops_after_attention if shape.hidden_dropout else 0)
    token = c * (4 * d + 3 * rank + shape.inner) + masks * d + 2 * FLOAT32_BYTES * (d + 2)
    weights = (c + (1 if shape.attention_dropout else 0)) * h * tokens
    of_all = (c + FLOAT32_BYTES + (2 if dropout else 0)) * d + 2 * FLOAT32_BYTES * rank
    of_first = token - 2 * c * d + FLOAT32_BYTES * h * (2 * d + 3 * tokens)
    return rows * tokens * ((shape.blocks - 1) * (token + weights) + of_all) + rows * of_first


def full_activation_bytes(shape: EncoderShape, *, rows: int, tokens: int) -> int:
    """With every parameter trained."""
    inputs = (3 if shape.attention_dropout else 2) * shape.width + shape.inner
    embeddings = (2 if shape.hidden_dropout else 1) * shape.width + 2
    return FLOAT32_BYTES * rows * tokens * (shape.blocks * (inputs + _frozen_block(shape, tokens)) + embeddings)


def _frozen_block(shape: EncoderShape, tokens: int) -> int:
    """What a block keeps to hand gradients on, whether or not it is trained itself; numbers a token."""
    attention = 3 * shape.width + 3 * shape.heads * tokens if shape.attention_dropout else 4 * shape.width + shape.heads
    masks = (1 + shape.drops_after_attention) * shape.width if shape.hidden_dropout else 0
    return attention + 2 * shape.width + 4 + shape.inner + masks
