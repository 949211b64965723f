"""What the tests let several processes do (ranks.py): functions that a new process can import."""

from __future__ import annotations

import io
import os
import signal
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from threading import Event
from unittest import mock

import torch
from support.command_line import call
from support.tiny import tiny_distilbert, tiny_rows
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora_scratch.adapter import LoRAConfig, disabled, inject
from lora_scratch.commands import evaluate, predict
from lora_scratch.commands import train as train_script
from lora_scratch.data import collate
from lora_scratch.evaluation import Predictor
from lora_scratch.fast import onednn
from lora_scratch.model.sharding import shard_base
from lora_scratch.runtime.distributed import broadcast, gather, is_main, is_sharded, rank, sum_over_processes, world_size
from lora_scratch.runtime.precision import Precision
from lora_scratch.runtime.ranks import check_same, check_same_settings
from lora_scratch.serialization import fingerprint, save_adapter
from lora_scratch.tasks import task_of
from lora_scratch.training import Checkpoints, MetricsLog, TrainingConfig, train
from lora_scratch.training.step import Stepper

FP32 = Precision(torch.float32, torch.device("cpu"))
USUAL_ADAPTER = {"rank": 4, "alpha": 8}
USUAL_TRAINING = {"epochs": 2, "batch_size": 12, "learning_rate": 1e-2, "precision": "fp32", "device": "cpu"}


def who():
    return rank(), world_size(), is_main()


def summed(*shapes):
    """Tensors full of rank + 1, summed."""
    tensors = [torch.full(shape, rank() + 1.0) for shape in shapes]
    sum_over_processes(tensors)
    return [tensor.tolist() for tensor in tensors]


def told(content):
    return broadcast(content if is_main() else b"not this")


def same(*contents):
    check_same("the rows", contents[rank()])
    return True


def agreed(*settings):
    check_same_settings(settings[rank()])
    return True


def everyones(*contents):
    return gather(contents[rank()])


SCRIPTS = {"train": train_script, "evaluate": evaluate, "predict": predict}


def script(name, *arguments, places=(".",), own_arguments=(), signalled=()):
    """Exit code, stdout and stderr of a script, as torchrun would start it.

    Args:
        places: the working directory of each process; the last one of all that are left.
        own_arguments: one list for each process, after the others.
        signalled: (process, step, signal): that process gets the signal in that step.
    """
    out, err = io.StringIO(), io.StringIO()
    if signalled and signalled[0] == rank():
        signal_at(*signalled[1:])
    own = own_arguments[rank()] if own_arguments else ()
    os.chdir(places[min(rank(), len(places) - 1)])
    with redirect_stdout(out), redirect_stderr(err):
        code = call(SCRIPTS[name], *arguments, *own, in_processes=True)
    return code, out.getvalue(), err.getvalue()


def die(how):
    """The last process goes; the others wait for it."""
    if rank() == world_size() - 1:
        os.kill(os.getpid(), how)
    sum_over_processes([torch.zeros(1)])


def logits(count, batch_tokens):
    return Predictor(tiny_distilbert(), FP32, 0, batch_tokens=batch_tokens).logits(tiny_rows(count)).numpy()


def adapted(*, dropout=0.0, **settings):
    return inject(tiny_distilbert(dropout=dropout), LoRAConfig(**{**USUAL_ADAPTER, "dropout": dropout, **settings}))


def trained(*, rows=45, folder=None, adapter=None, sharded=False, killed=(), wrong_seed_in=None, alphas=None, **settings):
    """Train the tiny model, 45 rows by 12: losses of the steps and validations, what came of it, the trained tensors.

    Args:
        folder: for checkpoints, one every two steps.
        killed: (process, step): that process is killed before that step.
        wrong_seed_in: this process's model starts from another seed.
        alphas: another alpha for each process.
    """
    model, log = adapted(**(adapter or {}), **({"alpha": alphas[rank()]} if alphas else {})), MetricsLog()
    if rank() == wrong_seed_in:
        model = inject(tiny_distilbert(seed=1), LoRAConfig(**USUAL_ADAPTER, dropout=0))
    if sharded:
        shard_base(model, torch.device(settings.get("device", "cpu")))
    if killed and killed[0] == rank():
        signal_at(killed[1], signal.SIGKILL)
    result = train(
        model,
        tiny_rows(rows),
        tiny_rows(19, seed=1),
        TrainingConfig(**{**USUAL_TRAINING, **settings}),
        log=log,
        checkpoints=Checkpoints(folder, save_steps=2) if folder else None,
        pad_token_id=0,
        show_progress=False,
    )
    return {
        "losses": [event["loss"] for event in log.events if "loss" in event],
        "result": replace(result, seconds=0, cpu_seconds=0, peak_memory_bytes=0),
        "tensors": {name: p.detach().cpu().numpy() for name, p in model.named_parameters() if p.requires_grad},
        "sharded": [name for name, p in model.named_parameters() if is_sharded(p)],
    }


def signal_at(step, number, *, before=lambda: None):
    """This process gets a signal in that step, after a last word."""
    set_rate = Stepper._set_learning_rate

    def signalled(self):
        if self.step == step:
            before()
            os.kill(os.getpid(), number)
        return set_rate(self)

    Stepper._set_learning_rate = signalled


def saved_adapter(folder):
    """Train with a sharded base and save, as the scripts do: the main process writes."""
    model = adapted()
    prints = fingerprint(model)
    shard_base(model, FP32.device)
    train(model, tiny_rows(45), tiny_rows(19, seed=1), TrainingConfig(**USUAL_TRAINING), pad_token_id=0, show_progress=False)
    if is_main():
        save_adapter(model, folder, base=prints)
    with disabled(model):
        return Predictor(model, FP32, 0).logits(tiny_rows(19, seed=1)).numpy()


class Messages(TorchDispatchMode):
    """What torch.distributed is asked to send: its operators have a namespace of their own. (operator, bytes) in `seen`."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace in ("c10d", "_c10d_functional", "fsdp") and function._opname not in LOCAL:
            tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
            self.seen.append((function._opname, max(tensor.nbytes for tensor in tensors)))
        return function(*args, **(kwargs or {}))


LOCAL = ("all_gather_copy_in", "split_with_sizes_copy", "chunk_cat")  # FSDP2's copies before and after its messages


def messages_of_a_step(*, accumulation_steps, sharded=False):
    """All messages of one optimizer step: (operator, bytes)."""
    model = adapted()
    if sharded:
        shard_base(model, FP32.device)
    stepper = Stepper(model, TrainingConfig(), task=task_of(model), precision=FP32, total_steps=1)
    batches = [collate(tiny_rows(), [row], pad_token_id=0) for row in range(accumulation_steps)]
    with Messages() as messages:
        stepper(batches, rows=6)
    return messages.seen


def slow_rows(*, batches, seconds):
    """The second process needs so long for each of its batches, the first no time at all."""

    def function(batch):
        Event().wait(seconds * rank())
        return batch.rows[:, None]

    return Predictor(None, FP32, 0, batch_tokens=1).map_rows(function, tiny_rows(2 * batches)).flatten().tolist()


def finding(*measured):
    """What this process takes for oneDNN's worth, when the processes would have measured this."""
    exact = mock.patch.object(onednn, "is_exact", return_value=True)  # whatever CPU the test runs on
    with exact, mock.patch.object(onednn, "_measure", return_value=measured[rank()]):
        return onednn.onednn_is_faster()


def random_number_after_a_step():
    trained(epochs=1, rows=12)
    return float(torch.rand(()))
