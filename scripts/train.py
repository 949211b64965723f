"""Adapt a pretrained classifier to a new task with LoRA, and say what that gained over the frozen model.

    python scripts/train.py                                     the embedded demo: offline, under a minute
    python scripts/train.py --preset emotion                    DistilBERT SST-2 to six emotions, from the hub
    python scripts/train.py --model DIR --dataset DIR --rank 8 --alpha 16 --targets q_lin k_lin v_lin
    python scripts/train.py --resume checkpoints/<run>          goes on where a run was stopped or killed
    python scripts/train.py --trainable all --learning_rate 1e-4    full fine-tuning, to compare with
    torchrun --nproc_per_node 2 scripts/train.py                two processes share every batch

Writes checkpoints/<run>/: config.json, metrics.jsonl, state/ (what a resume needs), adapter/ (best by validation, loads in
PEFT) and, last, logits.safetensors, report.json and report.html. Ctrl-C and SIGTERM save first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn

from lora_scratch.adapter import NF4, LoRAConfig, QuantizationReport, count_parameters, disabled, is_adapted, quantize_base
from lora_scratch.data import Encoded, Splits, collate, plan_batches
from lora_scratch.errors import printable
from lora_scratch.evaluation import (
    Metrics,
    Predictor,
    build_report,
    linear_probe,
    render,
    render_markdown,
    versions,
    with_texts,
)
from lora_scratch.model import Base
from lora_scratch.model.sharding import shard_base
from lora_scratch.reporting import run_page, write_page_if_possible
from lora_scratch.runs import (
    ALL,
    DataOptions,
    ModelOptions,
    RunOptions,
    check_free,
    check_same_run,
    command_line,
    encode_rows,
    is_finished,
    left_out,
    make_trainable,
    model_card,
    open_base,
    open_splits,
    parse,
    recorded_run,
    resolve_trainable,
    run_command,
    run_folder,
    save_whole,
    write_logits,
)
from lora_scratch.runtime.atomic import write_json, write_text
from lora_scratch.runtime.device import resolve_device, use_threads
from lora_scratch.runtime.distributed import is_main, is_sharded, world_size
from lora_scratch.runtime.precision import Precision, resolve_precision
from lora_scratch.serialization import fingerprint, save_adapter
from lora_scratch.study.anatomy import summarize_adapter
from lora_scratch.training import (
    Checkpoints,
    MetricsLog,
    TrainingConfig,
    TrainResult,
    check_tensorboard,
    tensorboard_listener,
    train,
)

OPTIONS = (ModelOptions, DataOptions, LoRAConfig, TrainingConfig, RunOptions)
MEASURED = ("baseline", "probe", "adapted")  # the models whose logits a run keeps


def main() -> None:
    """The whole job, top to bottom."""
    model_options, data, adapter, training, run = parse(OPTIONS, str(__doc__))
    use_threads(training.threads)
    precision = resolve_precision(training.precision, resolve_device(training.device))
    recorded = begun(run)

    # text -> examples -> token ids
    splits = open_splits(data, seed=training.seed)
    base = open_base(model_options.model, labels=splits.labels, seed=training.seed)
    adapter = resolve_trainable(base, run.trainable, adapter, base_precision=model_options.base_precision)
    quantized = quantize_base(base.model, heads=adapter.head_modules) if model_options.base_precision == NF4 else None
    sets = encode_splits(splits, base, max_tokens=data.max_tokens)
    known = history(splits, data, training, run)
    record = to_record((model_options, data, adapter, training, run), known, precision)
    check_same_run(recorded, record, folder=run.resume)
    if run.resume and is_finished(run.resume):
        print(f"{run.resume} is finished: report.json is there, nothing is left to do")
        return
    describe(base, splits, sets, quantized, run)

    # the untouched model, measured before anything is changed
    model, pad = base.model, base.pad_token_id
    predictor = Predictor(model, precision, pad, plain=training.plain)
    measure = partial(measure_frozen, predictor, sets, probe=run.linear_probe)
    if not run.fsdp:
        model.to(precision.device)
        frozen = measure()

    # freeze, inject, train; the best adapter by validation is on disk at every moment
    first = first_batches(sets["train"], pad, model.device)
    make_trainable(model, run.trainable, adapter, seed=training.seed, batches=first)
    record["base"] = {"name": base.name, "tensors": fingerprint(model)}
    if run.fsdp:  # only as shares does the model fit
        shard_base(model, precision.device)
        with disabled(model):
            frozen = measure()
    check_same_run(recorded, record, folder=run.resume)
    notes = {name: (recorded or record)[name] for name in known}
    with (
        run_folder(run, record) as folder,
        tensorboard_listener(folder / "tensorboard", wanted=run.tensorboard and is_main()) as listener,
    ):
        place = folder / ("model" if run.trainable == ALL else "adapter")
        keep = partial(save_best, base, place, notes=notes, tensors=record["base"]["tensors"])
        checkpoints = Checkpoints(folder / "state", save_steps=run.save_steps, keep=run.keep)
        if run.resume:
            print(f"resume {folder}: {from_where(checkpoints)}")
        log = MetricsLog(folder / "metrics.jsonl", listener=listener)
        learn = partial(train, model, sets["train"], sets["validation"], training, pad_token_id=pad)
        result = learn(log=log, on_best=keep, checkpoints=checkpoints)

        # the same rows again, against the frozen baseline
        measured = {**frozen, **measure_adapted(predictor, sets)}
        report = report_on(model, splits, sets["test"], quantized, train=took(result), **measured)
        if is_main():
            card = model_card(base.name, adapter, notes, render_markdown(report)) if is_adapted(model) else ""
            write_logits(folder, labels=sets["test"].labels, **{name: measured[f"{name}_logits"] for name in MEASURED})
            shown = publish(report, place, card=card, events=log.events, title=f"{base.name} adapted to {splits.source}")
    print(f"{render(report)}\n\n{place.name}: {place}    report: {folder / 'report.json'}")
    if is_main():
        print(shown)


def begun(run: RunOptions) -> dict[str, Any] | None:
    """The record of the run to go on with; for a new one nothing, once its place is known to be free."""
    if run.tensorboard:
        check_tensorboard()
    recorded = recorded_run(run.resume) if run.resume else None
    if run.output_dir and recorded is None and is_main():
        check_free(Path(run.output_dir))
    return recorded


def encode_splits(splits: Splits, base: Base, *, max_tokens: int) -> dict[str, Encoded]:
    """Token ids of the train, validation and test rows."""
    rows = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {name: encode_rows(each, base, max_tokens=max_tokens) for name, each in rows.items()}


def measure_frozen(predictor: Predictor, sets: dict[str, Encoded], *, probe: bool) -> dict[str, Any]:
    """Logits of the test rows, by the model as it came and, if asked for, by a linear probe on its features."""
    baseline = predictor.logits(sets["test"], progress="baseline")
    if not probe:
        return {"baseline_logits": baseline, "probe_logits": None}
    start = process_time()
    probed = linear_probe(predictor, sets["train"], sets["test"], progress="linear probe")
    model = predictor.model
    took = {"cpu_seconds": process_time() - start, "parameters": (model.config.hidden_size + 1) * model.config.num_labels}
    return {"baseline_logits": baseline, "probe_logits": probed, "probe": took}


def measure_adapted(predictor: Predictor, sets: dict[str, Encoded]) -> dict[str, Tensor]:
    """Logits of the test rows by the adapted model, and what its temperature is fitted to: no test row may choose it."""
    validation = sets["validation"]
    return {
        "adapted_logits": predictor.logits(sets["test"], progress="adapted"),
        "validation_logits": predictor.logits(validation, progress="validation"),
        "validation_labels": validation.labels,
    }


def save_best(base: Base, folder: Path, metrics: Metrics, *, notes: dict[str, Any], tensors: dict[str, Any]) -> None:
    """The adapter as it is now, with what it scored on the validation rows and its base's digests; else the whole model."""
    if not is_adapted(base.model):
        save_whole(base, folder)
        return
    about = {**notes, "validation": asdict(metrics)}
    save_adapter(base.model, folder, base_model=base.name, base=tensors, notes=about)


def report_on(
    model: nn.Module, splits: Splits, rows: Encoded, quantized: QuantizationReport | None, **figures: Any
) -> dict[str, Any]:
    """What report.json holds. (The anatomy is of whole tensors: a share of one has no norm.)"""
    if not any(is_sharded(p) for p in model.parameters()):
        figures["anatomy"] = [asdict(module) for module in summarize_adapter(model)]
    if quantized:
        figures["quantization"] = quantized.summary()
    report = build_report(
        **figures,
        parameters=asdict(count_parameters(model)),
        labels=rows.labels,
        names=splits.labels,
        lengths=rows.lengths,
        versions=versions(),
        command=command_line(),
    )
    return with_texts(report, [row.text for row in splits.test])


def publish(report: dict[str, Any], place: Path, *, card: str, events: list[dict[str, Any]], title: str) -> str:
    """Write the adapter's card into `place`, report.json and report.html beside it; what became of the last one."""
    folder = place.parent
    if card:
        write_text(place / "README.md", card)
    write_json(folder / "report.json", report)
    return write_page_if_possible(folder / "report.html", partial(run_page, report, events, title=title))


def from_where(checkpoints: Checkpoints) -> str:
    """Where a run goes on."""
    steps = checkpoints.steps()
    return f"goes on after step {steps[-1]:,}" if steps else "no checkpoint yet, so from the beginning"


def first_batches(rows: Encoded, pad: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Some training rows for --init eva, which looks at the inputs of the layers; nothing is computed unless asked for."""
    for number in plan_batches(rows.lengths, batch_size=32, seed=0, epoch=0)[:16]:
        batch = collate(rows, number, pad_token_id=pad).to(device)
        yield {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def to_record(options: tuple[Any, ...], known: dict[str, Any], precision: Precision) -> dict[str, Any]:
    """What config.json holds: every option as it was resolved, what is known of rows and versions, and what computes."""
    settings = {type(each).__name__: asdict(each) for each in options}
    return {**settings, **known, "processes": world_size(), "computed_in": [precision.name, precision.device.type]}


def history(splits: Splits, data: DataOptions, training: TrainingConfig, run: RunOptions) -> dict[str, Any]:
    """What config.json and provenance.json both record of how the adapter came to be."""
    return {
        "labels": list(splits.labels),
        "data": {**asdict(data), "source": splits.source, "digests": splits.digests},
        "training": asdict(training),
        "trainable": run.trainable,
        "versions": versions(),
        "command": command_line(),
    }


def took(result: TrainResult) -> dict[str, float]:
    """What the training took, as report.json names it."""
    names = ("seconds", "cpu_seconds", "examples", "tokens", "examples_per_second", "peak_memory_bytes")
    return {**{name: getattr(result, name) for name in names}, "skipped_steps": result.skipped}


def describe(
    base: Base, splits: Splits, sets: dict[str, Encoded], quantized: QuantizationReport | None, run: RunOptions
) -> None:
    """What goes in, and what was done to it, before the long work starts."""
    print(f"base   {base.name}; fresh values in {', '.join(base.newly_initialized) or 'nothing'}")
    counts = ", ".join(f"{len(each):,} {name}" for name, each in sets.items())
    print(printable(f"data   {splits.source}: {counts} rows; labels {', '.join(splits.labels)}"))
    cut = {name: each.truncated for name, each in sets.items() if each.truncated}
    for name, count in cut.items():
        print(f"       {count:,} of {len(sets[name]):,} {name} rows are cut to {sets[name].max_tokens} tokens")
    for line in left_out(splits):
        print(f"       {line}")
    if quantized:
        print(f"nf4    {quantized}")
    if run.trainable == ALL:
        print("train  every parameter; there is no adapter, and --rank and the like say nothing")


if __name__ == "__main__":
    run_command(main, in_processes=True)
