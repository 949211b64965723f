"""Exact attention in the families whose approximate attention gives one text several answers.

BigBird attends in blocks to rows above a length (704 tokens), and to all tokens of shorter rows, for
good after the first short batch. Nyströmformer with fewer landmarks than its segment length computes
one length alone. Neither approximation has weights of its own, so exact attention has the same ones.
"""

from __future__ import annotations

from typing import Any


def make_attention_exact(model: Any) -> list[str]:
    """Switch to exact attention where it is approximate, also in the config. Return what was done."""
    config = model.config
    if getattr(config, "attention_type", "") == "block_sparse":
        model.base_model.set_attention_type("original_full")
        config.attention_type = "original_full"
        return ["every row attends to all its tokens: block-sparse attention gives other logits beside longer rows"]
    if getattr(config, "num_landmarks", None) != getattr(config, "segment_means_seq_len", None):
        config.num_landmarks = config.segment_means_seq_len
        for module in model.modules():
            if hasattr(module, "num_landmarks"):
                module.num_landmarks = config.num_landmarks
        return ["attention is exact instead of by landmarks, which compute one length of row alone"]
    return []
