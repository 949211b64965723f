"""What the tests let several processes do (ranks.py): functions that a new process can import."""

from __future__ import annotations

import os

import torch
from tiny import tiny_distilbert, tiny_rows

from lora_scratch.evaluation import predict_logits
from lora_scratch.runtime.distributed import check_same, from_main, is_main, rank, sum_over_processes, world_size
from lora_scratch.runtime.precision import Precision

FP32 = Precision(torch.float32, torch.device("cpu"))


def who():
    return rank(), world_size(), is_main()


def summed(*shapes):
    """Tensors full of rank + 1, summed."""
    tensors = [torch.full(shape, rank() + 1.0) for shape in shapes]
    sum_over_processes(tensors)
    return [tensor.tolist() for tensor in tensors]


def told(content):
    return from_main(content if is_main() else b"not this")


def same(*contents):
    check_same("the rows", contents[rank()])
    return True


def die(how):
    """The last process goes; the others wait for it."""
    if rank() == world_size() - 1:
        os.kill(os.getpid(), how)
    sum_over_processes([torch.zeros(1)])


def logits(count, batch_size):
    return predict_logits(tiny_distilbert(), tiny_rows(count), precision=FP32, pad_token_id=0, batch_size=batch_size).numpy()
