"""Adapt a pretrained classifier to a new task with LoRA, and say what that gained over the frozen model.

    lora-scratch train                                     the embedded demo: offline, under a minute
    lora-scratch train --preset emotion                    DistilBERT SST-2 to six emotions, from the hub
    lora-scratch train --model DIR --dataset DIR           the recommended recipe, --preset encoder
    lora-scratch train --model DIR --dataset DIR --rank 8 --alpha 16 --targets q_lin k_lin v_lin
    lora-scratch train --model DIR --dataset DIR --start_from ADAPTER    a new task from a trained adapter
    lora-scratch train --config job.yaml --epochs 1        flags from a file; flags on the command line win
    lora-scratch train --resume checkpoints/<run>          resume a run that was stopped or killed
    lora-scratch train --trainable all --learning_rate 1e-4    full fine-tuning, to compare with; also head, bitfit
    torchrun --nproc_per_node 2 -m lora_scratch train      two processes share every batch
    python scripts/train.py                                the same from a checkout

Writes checkpoints/<run>/: config.json, metrics.jsonl, state/ (what a resume needs), adapter/ (best by validation, loads in
PEFT) and, last, logits.safetensors, report.json and report.html. Ctrl-C and SIGTERM save first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lora_scratch.adapter import NF4, LoRAConfig, QuantizationReport, count_parameters, disabled, is_adapted, quantize_base
from lora_scratch.data import Encoded, Splits, collate, plan_batches, shown_text
from lora_scratch.data.overlap import overlap_line, without_leaked
from lora_scratch.errors import printable
from lora_scratch.evaluation import (
    Predictor,
    ProbeCost,
    Report,
    TrainingCost,
    linear_probe,
    render,
    versions,
    without_leaked_rows,
)
from lora_scratch.model.base import Base
from lora_scratch.model.precision import family_precision
from lora_scratch.model.sharding import shard_base
from lora_scratch.reporting import run_page, run_title, write_page
from lora_scratch.runs import (
    ALL,
    BITFIT,
    HEAD,
    RECOMMENDED,
    TRAIN_OPTIONS,
    WITH_ADAPTER,
    DataOptions,
    ModelOptions,
    RunOptions,
    Start,
    check_free,
    check_same_run,
    command_line,
    encode_rows,
    fitting_rows,
    is_finished,
    left_out,
    make_trainable,
    model_card,
    open_base,
    open_splits,
    open_start,
    parse,
    recorded_run,
    resolve_head_start,
    resolve_trainable,
    run_command,
    run_folder,
    save_whole,
    with_columns_of,
    write_logits,
)
from lora_scratch.runtime.atomic import write_json, write_text
from lora_scratch.runtime.device import resolve_device, use_threads
from lora_scratch.runtime.distributed import is_main, is_sharded, world_size
from lora_scratch.runtime.extras import check_extra
from lora_scratch.runtime.precision import Precision, resolve_precision
from lora_scratch.serialization import fingerprint, read_provenance, save_adapter
from lora_scratch.study.anatomy import summarize_adapter
from lora_scratch.tasks import Metrics, Task, task_of
from lora_scratch.training import (
    Checkpoints,
    MetricsLog,
    TrainingConfig,
    TrainResult,
    tensorboard_listener,
    train,
)
from lora_scratch.training.margins import write_margins
from lora_scratch.training.objective import check_best_by, training_task

IN_PROCESSES = True
TRAINED = {ALL: "every parameter", HEAD: "the head", BITFIT: "all biases and the head"}  # without an adapter
# in config.json and provenance.json
HISTORY = ("labels", "task", "data", "training", "trainable", "start_from", "versions", "command")


class Options(NamedTuple):
    """Every option of the command, one dataclass a subject."""

    model: ModelOptions
    data: DataOptions
    adapter: LoRAConfig
    training: TrainingConfig
    run: RunOptions


class EncodedSplits(NamedTuple):
    """The token ids of the rows."""

    train: Encoded
    validation: Encoded
    test: Encoded


@dataclass(frozen=True)
class Job:
    """What a run works with: options, texts, token ids, the base, its quantization, the adapter to start from."""

    options: Options
    precision: Precision
    splits: Splits
    encoded: EncodedSplits
    base: Base
    quantized: QuantizationReport | None
    start: Start | None = None

    @property
    def task(self) -> Task:
        """What is predicted; nothing is fitted to validation rows yet."""
        return task_of(self.base.model)

    @property
    def objective(self) -> Task:
        """The task as it is trained: with class weights and label smoothing."""
        return training_task(self.task, self.options.training, self.encoded.train.labels)

    @property
    def predictor(self) -> Predictor:
        """What runs rows through the model as it is now."""
        return Predictor(self.base.model, self.precision, self.base.pad_token_id, plain=self.options.training.plain)


class Baseline(NamedTuple):
    """Logits (n, C) of the test rows by the frozen base and, if asked for, by the linear probe."""

    logits: Tensor
    probe_logits: Tensor | None = None
    probe_cost: ProbeCost | None = None


def main() -> None:
    """Load, measure the frozen base, adapt it, train, measure again, and write the report."""
    options = Options(*parse(TRAIN_OPTIONS, str(__doc__), recipe=RECOMMENDED))
    run = options.run
    use_threads(options.training.threads)
    precision = resolve_precision(options.training.precision, resolve_device(options.training.device))
    recorded = load_resume_record(run)

    job = load(options, precision)
    check_best_by(options.training.best_by, job.objective, job.encoded.validation.labels)
    record = run_record(job)
    check_same_run(recorded, record, folder=run.resume)
    if run.resume and is_finished(run.resume):
        print(f"{run.resume} is finished: report.json is there, nothing is left to do")
        return
    describe(job)

    baseline, tensors = measure_and_adapt(job)
    record["base"] = {"name": job.base.name, "tensors": tensors}
    check_same_run(recorded, record, folder=run.resume)

    with run_folder(run, record) as folder:
        result, events = train_adapter(job, folder, record=recorded or record)
        adapted = job.predictor.logits(job.encoded.test, progress="adapted")
        task = fit_decision(job)
        report = compare(job, task, baseline, adapted, result)
        if is_main():
            save_best(job, saved_folder(job, folder), result.best, record=recorded or record, task=task)
        logits = (baseline, adapted)
        page_line = write_results(job, folder, report, result, events, logits=logits) if is_main() else ""
    place = saved_folder(job, folder)
    print(f"{render(report)}\n\n{place.name}: {place}    report: {folder / 'report.json'}")
    if is_main():
        print(page_line)


def load_resume_record(run: RunOptions) -> dict[str, Any] | None:
    """Return config.json of the run to resume; for a new run None, if its folder is free."""
    if run.tensorboard:
        check_extra("tensorboard", flag="--tensorboard")
    recorded = recorded_run(run.resume) if run.resume else None
    if run.output_dir and recorded is None and is_main():
        check_free(Path(run.output_dir))
    return recorded


def load(options: Options, precision: Precision) -> Job:
    """Read the rows and the base, quantize the base if asked to, and encode the rows."""
    run, four_bits, seed = options.run, options.model.base_precision, options.training.seed
    splits = open_splits(options.data, seed=seed)
    base = open_base(str(options.model.model), labels=splits.labels, task=splits.task, seed=seed)
    start = None
    if options.model.start_from:
        start = open_start(options.model.start_from, base, trainable=run.trainable, base_precision=four_bits)
    settings = start.config if start else options.adapter
    adapter = resolve_trainable(base, run.trainable, settings, base_precision=four_bits)
    training = resolve_head_start(options.training, base, keeps_head=start is not None and start.keeps_head)
    quantized = quantize_base(base.model, heads=adapter.head_modules) if four_bits == NF4 else None
    texts = (splits.train, splits.validation, splits.test)
    data = fitting_rows(with_columns_of(splits, options.data), base)
    encoded = EncodedSplits(*(encode_rows(rows, base, max_tokens=data.max_tokens) for rows in texts))
    precision = family_precision(base.model, precision)
    options = options._replace(data=data, adapter=adapter, training=training)
    return Job(options, precision, splits, encoded, base, quantized, start)


def run_record(job: Job) -> dict[str, Any]:
    """Return what config.json holds: all options as resolved, the history, the compute dtype."""
    options, splits = job.options, job.splits
    return {
        **{type(part).__name__: asdict(part) for part in options},
        "labels": list(splits.labels),
        "task": splits.task,
        "data": {**asdict(options.data), "source": splits.source, "digests": splits.digests},
        "training": asdict(options.training),
        "trainable": options.run.trainable,
        **({"start_from": job.start.record()} if job.start else {}),
        "versions": versions(),
        "command": command_line(),
        "processes": world_size(),
        "computed_in": [job.precision.name, job.precision.device.type],
    }


def describe(job: Job) -> None:
    """Print the base, the rows, and what is left out or cut, before the long work starts."""
    base, splits = job.base, job.splits
    print(f"base   {base.name}; fresh values in {', '.join(base.newly_initialized) or 'nothing'}")
    for note in base.notes:
        print(f"       {note}")
    counts = ", ".join(f"{len(rows):,} {name}" for name, rows in job.encoded._asdict().items())
    print(printable(f"data   {splits.source}: {counts} rows; labels {', '.join(splits.labels)}"))
    losses = [line for name, rows in job.encoded._asdict().items() for line in rows.losses(name)]
    copies = overlap_line(splits)
    for line in (*losses, *splits.notes, *([copies] if copies else []), *left_out(splits)):
        print(f"       {line}")
    if job.quantized:
        print(f"nf4    {job.quantized}")
    if job.start:
        print(printable(f"start  {job.start}"))
    if trained := TRAINED.get(job.options.run.trainable):
        print(f"train  {trained}; there is no adapter; --rank and other adapter flags have no effect")
    if job.objective.weights is not None:
        pairs = zip(job.task.labels, job.objective.weights.tolist(), strict=True)
        print(printable(f"weight {', '.join(f'{label} {weight:.3g}' for label, weight in pairs)}"))


def measure_and_adapt(job: Job) -> tuple[Baseline, dict[str, Any]]:
    """Measure the frozen base, then adapt it. Return also the digests of its tensors.

    With --fsdp only shards of the base fit: adapt it first, and measure with the adapter disabled.
    """
    model = job.base.model
    if job.options.run.fsdp:
        tensors = adapt(job)
        shard_base(model, job.precision.device)
        with disabled(model):
            return measure_baseline(job), tensors
    model.to(job.precision.device)
    return measure_baseline(job), adapt(job)


def measure_baseline(job: Job) -> Baseline:
    """Measure the test rows with the frozen base and, with --linear_probe, with the probe."""
    train_rows, _, test_rows = job.encoded
    logits = job.predictor.logits(test_rows, progress="baseline")
    if not job.options.run.linear_probe:
        return Baseline(logits)
    start = process_time()
    probe_logits = linear_probe(job.predictor, train_rows, test_rows, progress="linear probe")
    config = job.base.model.config
    cost = ProbeCost(process_time() - start, parameters=(config.hidden_size + 1) * config.num_labels)
    return Baseline(logits, probe_logits, cost)


def adapt(job: Job) -> dict[str, Any]:
    """Inject the adapter, or make every parameter trainable. Return the base's digests."""
    model, options = job.base.model, job.options
    batches = first_batches(job.encoded.train, job.base.pad_token_id, model.device)
    make_trainable(model, options.run.trainable, options.adapter, seed=options.training.seed, batches=batches)
    if job.start:
        job.start.copy_into(model)
    return fingerprint(model)


def first_batches(rows: Encoded, pad_token_id: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Yield some training rows for --init eva, which needs the inputs of the layers."""
    for numbers in plan_batches(rows.lengths, batch_size=32, seed=0, epoch=0)[:16]:
        batch = collate(rows, numbers, pad_token_id=pad_token_id).to(device)
        yield batch.inputs


def train_adapter(job: Job, folder: Path, *, record: dict[str, Any]) -> tuple[TrainResult, list[dict[str, Any]]]:
    """Train, save the best adapter by validation, and return the result and the logged events."""
    run = job.options.run
    checkpoints = Checkpoints(folder / "state", save_steps=run.save_steps, keep=run.keep)
    if run.resume:
        steps = checkpoints.steps()
        where = f"goes on after step {steps[-1]:,}" if steps else "no checkpoint yet, so from the beginning"
        print(f"resume {folder}: {where}")
    with tensorboard_listener(folder / "tensorboard", wanted=run.tensorboard and is_main()) as listener:
        log = MetricsLog(folder / "metrics.jsonl", listener=listener)
        result = train(
            job.base.model,
            job.encoded.train,
            job.encoded.validation,
            job.options.training,
            pad_token_id=job.base.pad_token_id,
            task=job.objective,
            log=log,
            on_best=partial(save_best, job, saved_folder(job, folder), record=record),
            checkpoints=checkpoints,
        )
    return result, log.events


def saved_folder(job: Job, folder: Path) -> Path:
    """Return where the adapter is saved, or the whole model if there is no adapter."""
    return folder / ("adapter" if job.options.run.trainable in WITH_ADAPTER else "model")


def fit_decision(job: Job) -> Task:
    """Return the task with what its decision fits on the validation rows: thresholds, or a temperature."""
    rows = job.encoded.validation
    return job.task.fitted(job.predictor.logits(rows, progress="validation"), rows.labels)


def save_best(job: Job, place: Path, metrics: Metrics, *, record: dict[str, Any], task: Task | None = None) -> None:
    """Save the adapter with its history and validation scores; without one, the whole model.

    `task`, at the end of the training, has what was fitted on the validation rows.
    """
    base = job.base
    if not is_adapted(base.model):
        save_whole(base, place)
        return
    notes = {**{name: record[name] for name in HISTORY if name in record}, "validation": asdict(metrics)}
    notes["decision"] = {} if task is None else task.settings()
    save_adapter(base.model, place, base_model=base.name, base=record["base"]["tensors"], notes=notes)


def compare(job: Job, task: Task, baseline: Baseline, adapted: Tensor, result: TrainResult) -> Report:
    """Compare the adapted model with the frozen base on the test rows."""
    model, test = job.base.model, job.encoded.test
    report = Report.compare(
        baseline.logits,
        adapted,
        test.labels,
        task=task,
        parameters=count_parameters(model),
        command=command_line(),
        texts=[shown_text(row) for row in job.splits.test],
        lengths=test.lengths,
        probe_logits=baseline.probe_logits,
        train=training_cost(result),
    )
    sharded = any(is_sharded(p) for p in model.parameters())  # a shard has no norm of the whole tensor
    kept = without_leaked(job.splits)
    return replace(
        report,
        leaked=without_leaked_rows(task, baseline.logits, adapted, test.labels, kept),
        probe=baseline.probe_cost,
        anatomy=None if sharded else summarize_adapter(model),
        quantization=job.quantized.summary() if job.quantized else None,
    )


def training_cost(result: TrainResult) -> TrainingCost:
    """Return what the training used."""
    return TrainingCost(
        seconds=result.seconds,
        cpu_seconds=result.cpu_seconds,
        examples=result.examples,
        tokens=result.tokens,
        examples_per_second=result.examples_per_second,
        peak_memory_bytes=result.peak_memory_bytes,
        skipped_steps=result.skipped,
    )


def write_results(
    job: Job,
    folder: Path,
    report: Report,
    result: TrainResult,
    events: list[dict[str, Any]],
    *,
    logits: tuple[Baseline, Tensor],
) -> str:
    """Write card, logits, margins, report.json and report.html. Return a line about the page."""
    place = saved_folder(job, folder)
    provenance = read_provenance(place)  # None for a whole model
    if provenance:
        card = model_card(provenance, job.options.adapter, report, test_split=job.splits.test_split)
        write_text(place / "README.md", card)
    labels, (baseline, adapted) = job.encoded.test.labels, logits
    write_logits(folder, labels=labels, baseline=baseline.logits, probe=baseline.probe_logits, adapted=adapted)
    write_margins(folder, result.margins, train_digest=job.splits.digests["train"])
    write_json(folder / "report.json", report.as_json())
    names = {"model": job.base.name, "data": job.splits.source, "variant": job.options.adapter.variant}
    title = run_title(report, **names, pairs=job.options.data.pair_column is not None)
    return write_page(folder / "report.html", run_page(report, events, title=title))


if __name__ == "__main__":
    run_command(main, in_processes=IN_PROCESSES)
