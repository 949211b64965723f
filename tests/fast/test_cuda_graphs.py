"""lora_scratch/fast/cuda_graphs.py: batches that are replayed give the losses and gradients of batches that are not."""

import copy
import gc
import weakref
from contextlib import contextmanager

import pytest
import torch
from support.families import FAMILIES, tiny
from support.graphs import FakeRecorder, Recording
from support.tiny import tiny_distilbert, tiny_rows
from torch.utils._python_dispatch import TorchDispatchMode

from lora_scratch.adapter import LoRAConfig, inject, quantize_base
from lora_scratch.data import collate
from lora_scratch.fast import cuda_graphs
from lora_scratch.fast.cuda_recorder import CudaRecorder, without_host_waits
from lora_scratch.fast.fused_lora import fused_updates
from lora_scratch.fast.path import FastPath
from lora_scratch.model.forward import classify
from lora_scratch.runtime.precision import resolve_precision
from lora_scratch.tasks import task_of
from lora_scratch.training import MetricsLog, TrainingConfig, step, train
from lora_scratch.training.optimizer import make_recordable
from lora_scratch.training.step import Stepper

ROWS = tiny_rows()
aten = torch.ops.aten
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class EmptyRecorder(FakeRecorder):
    """Records nothing, as a capture on a stream of another device does."""

    def recording(self, computation):
        return Recording(lambda: self.pool, self.pool)


class AllocatingRecorder(FakeRecorder):
    """Records gradients that no batch before had, so that they lie in the memory of the graphs."""

    def __init__(self, parameter):
        super().__init__()
        self.parameter = parameter

    def recording(self, computation):
        self.parameter.grad = torch.ones_like(self.parameter)
        return super().recording(computation)


def use_graphs(run, recorder):
    run.path = FastPath(recorder)
    make_recordable(run.optimizer)


def stepper(*, device="cpu", precision="fp32", dropout=0.0):
    torch.manual_seed(0)
    model = inject(tiny_distilbert(dropout=dropout), LoRAConfig(rank=4, alpha=8, dropout=dropout), seed=0).train().to(device)
    config = TrainingConfig(learning_rate=1e-2, warmup_ratio=0)
    chosen = resolve_precision(precision, torch.device(device))
    return Stepper(model, config, task=task_of(model), precision=chosen, total_steps=100)


def batches(device="cpu", *, times=4):
    """Steps of one and two micro-batches, in three shapes, each of which comes back `times` times."""
    groups = []
    for start in range(0, 8 * times, 8):
        groups += [[range(start, start + 3)], [range(start + 3, start + 6), range(start + 6, start + 8)]]
    rows = ROWS.to(device)
    return [[collate(rows, list(part), pad_token_id=0, multiple=12) for part in group] for group in groups]


def outcome(run, steps):
    """Reports of the steps, and the weights after them."""
    torch.manual_seed(1)
    reports = [run(step) for step in steps]
    return reports, {name: p.detach().clone() for name, p in run.model.named_parameters() if p.requires_grad}


def assert_same(found, expected):
    """The same losses and norms, the same weights in every bit."""
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], tensor) for name, tensor in expected[1].items())


def graphed(recorder, **options):
    run = stepper(**options)
    use_graphs(run, recorder)
    return run


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_replayed_steps_are_the_steps_in_every_bit(precision):
    """Also with dropout, with micro-batches of other shapes in between, and with float16's scale."""
    recorder = FakeRecorder()
    run = graphed(recorder, precision=precision, dropout=0.1)
    assert_same(outcome(run, batches()), outcome(stepper(precision=precision, dropout=0.1), batches()))
    # [3 rows] of a step of 3 and [3 rows] of a step of 5 are two shapes: their loss is divided by another number
    assert (recorder.runs, recorder.rehearsals, len(recorder.recordings)) == (4, 4, 4)
    assert [recording.replays for recording in recorder.recordings] == [3, 6, 3, 3]  # the second is the update


def test_the_losses_of_two_replays_are_kept_apart_though_they_are_in_the_same_memory():
    """All graphs share one memory: a loss has to be copied out before the next replay."""
    run = graphed(FakeRecorder())
    outcome(run, batches(times=3))
    one, other = batches()[1]
    losses = [run.backward(one, 5), run.backward(other, 5)]
    eager = copy.deepcopy(run.model)
    alone = Stepper(eager, run.config, task=run.task, precision=run.precision, total_steps=1)
    expected = [alone.backward(b, 5) for b in (one, other)]
    assert losses == expected
    assert losses[0] != losses[1]


def test_gradients_stay_where_they_were_before_the_recording():
    """A graph adds into the memory that it was recorded with, which no other graph may write to."""
    run = graphed(FakeRecorder())
    outcome(run, batches(times=1))
    before = [p.grad for p in run.parameters]
    outcome(run, batches())
    assert all(p.grad is gradient for p, gradient in zip(run.parameters, before, strict=True))


def test_a_parameter_without_a_gradient_is_still_without_one():
    """A gradient of zeros in its place would decay it, and nobody would see that it learns nothing."""
    run = graphed(FakeRecorder())
    add_bystander(run)
    outcome(run, batches())
    assert run.model.bystander.grad is None
    assert run.model.bystander.tolist() == [1, 1]


def add_bystander(run):
    """A parameter that the loss does not depend on."""
    run.model.register_parameter("bystander", torch.nn.Parameter(torch.ones(2)))
    run.optimizer.add_param_group({"params": [run.model.bystander], "lr": 1.0, "weight_decay": 0.5})
    run.parameters.append(run.model.bystander)
    run.peak_rates.append(1.0)


FAILURES = {
    "a rehearsal that waits": FakeRecorder(rehearsal_fails=RuntimeError("called a synchronizing CUDA operation\nmore")),
    "a capture": FakeRecorder(recording_fails=RuntimeError("called a synchronizing CUDA operation\nmore")),
}


@pytest.mark.parametrize("recorder", FAILURES.values(), ids=FAILURES)
def test_what_can_not_be_recorded_is_run_as_usual_and_said_once(recorder):
    """The same numbers, dropout included: gradients and random numbers of the failed attempt do not count. One warning."""
    with pytest.warns(UserWarning, match=r"^trains without CUDA graphs: called a synchron[a-z]+ CUDA operation$") as said:
        found = outcome(graphed(recorder, dropout=0.1), batches())
    assert_same(found, outcome(stepper(dropout=0.1), batches()))
    assert len(said) == 1
    assert recorder.recordings == []


def test_the_reason_that_is_told_is_the_first_error():
    """The end of a failed capture raises an error of its own, which says only that there was one."""
    error = RuntimeError("operation failed due to a previous error during capture")
    error.__context__ = RuntimeError("operation not permitted when stream is capturing")
    with pytest.warns(UserWarning, match="without CUDA graphs: operation not permitted when stream is capturing"):
        outcome(graphed(FakeRecorder(recording_fails=error)), batches())


def test_a_failed_capture_drops_the_recordings_that_there_are():
    """Their random numbers come from the generator's state of before, and one batch has to draw after the other."""
    recorder = FakeRecorder()
    run = graphed(recorder)
    outcome(run, batches())
    recorder.rehearsal_fails = RuntimeError("waits")
    with pytest.warns(UserWarning, match="without CUDA graphs: waits"):
        outcome(run, [[collate(ROWS, list(range(7)), pad_token_id=0)]] * 2)
    assert [recording.resets for recording in recorder.recordings] == [1, 1, 1, 1]
    assert run.path.graphs.recorded == {}


def test_dropped_recordings_are_freed_and_batches_are_run_as_usual():
    """When training is over nobody has to be warned."""
    recorder, expected = FakeRecorder(), outcome(stepper(), batches() + batches(times=1))
    run = graphed(recorder)
    first = outcome(run, batches())[0]
    run.path.close()
    assert [recording.resets for recording in recorder.recordings] == [1, 1, 1, 1]
    assert_same((first + outcome(run, batches(times=1))[0], outcome(run, [])[1]), expected)
    assert (recorder.runs, recorder.rehearsals, len(recorder.recordings)) == (4, 4, 4)


def test_an_empty_graph_is_noticed_and_the_batch_is_computed():
    """Recorded on another device than the model's, a graph has no kernels: stale losses and zero gradients, for ever."""
    with pytest.warns(UserWarning, match="trains without CUDA graphs: a recorded graph computes something else"):
        found = outcome(graphed(EmptyRecorder(), dropout=0.1), batches())
    assert_same(found, outcome(stepper(dropout=0.1), batches()))


def test_a_gradient_in_the_memory_of_the_graphs_is_refused():
    """The replay of another graph would write over it."""
    run = stepper()
    add_bystander(run)
    use_graphs(run, AllocatingRecorder(run.model.bystander))
    with pytest.warns(UserWarning, match="a gradient was allocated in the memory that all graphs write to"):
        outcome(run, batches())
    assert run.model.bystander.grad is None


class FrozenNumbers(FakeRecorder):
    """Replays with the random numbers of the recording, as a generator that is not part of the graph."""

    def recording(self, computation):
        state = torch.get_rng_state()

        def same():
            now = torch.get_rng_state()
            torch.set_rng_state(state)
            result = computation()
            torch.set_rng_state(now)
            return result

        return Recording(same, self.pool)


def test_a_graph_that_draws_the_same_numbers_again_is_refused():
    """Its first replay is right in every bit, and each later one drops the same entries."""
    with pytest.warns(UserWarning, match="trains without CUDA graphs: a recorded graph computes something else"):
        found = outcome(graphed(FrozenNumbers(), dropout=0.1), batches())
    assert_same(found, outcome(stepper(dropout=0.1), batches()))


@pytest.mark.parametrize("part", ["weights", "moments", "gradients", "margins"])
def test_an_update_that_fails_halfway_is_undone(part):
    """Weights, moments, gradients and what a listener counts: the step is then run as usual, once."""
    run = graphed(FakeRecorder(rehearsal_fails=RuntimeError("waits")), dropout=0.1)
    seen = torch.zeros(())
    run.listener, run.listener_tensors = (lambda batch, _: seen.add_(len(batch.rows))), [seen]
    plain = stepper(dropout=0.1)
    with pytest.warns(UserWarning, match="without CUDA graphs: waits"):
        found = outcome(run, batches())
    expected = outcome(plain, batches())
    moments = [[value for p in each.parameters for value in each.optimizer.state[p].values()] for each in (run, plain)]
    values = {
        "weights": (list(found[1].values()), list(expected[1].values())),
        "moments": moments,
        "gradients": [[torch.tensor(report.gradient_norm) for report in reports] for reports, _ in (found, expected)],
        "margins": ([seen], [torch.tensor(float(sum(len(b.rows) for group in batches() for b in group)))]),
    }
    assert all(torch.equal(x, y) for x, y in zip(*values[part], strict=True))


def test_a_measured_step_runs_its_update_as_usual():
    """Hooks of the optimizer see it, which a replay runs none of."""
    run, seen = graphed(FakeRecorder()), []
    run.is_measured = lambda: run.step % 3 == 0
    run.optimizer.register_step_post_hook(lambda *_: seen.append(run.step) if run.is_measured() else None)
    assert_same(outcome(run, batches()), outcome(stepper(), batches()))
    assert seen == [0, 3, 6]


def test_an_error_of_the_model_itself_is_raised(monkeypatch):
    """It is no matter of graphs: run as usual, it is the same error."""
    monkeypatch.setattr(step, "classify", lambda *_: torch.zeros(2, 3) @ torch.zeros(2, 3))
    with pytest.warns(UserWarning, match="without CUDA graphs"), pytest.raises(RuntimeError, match="cannot be multiplied"):
        outcome(graphed(FakeRecorder()), batches())


def test_out_of_memory_while_recording_leaves_the_graphs_and_not_the_size_of_the_batch():
    """Without graphs there may be memory for whole batches."""
    recorder = FakeRecorder(recording_fails=torch.OutOfMemoryError("CUDA out of memory"))
    run = graphed(recorder, dropout=0.1)
    with pytest.warns(UserWarning, match="trains without CUDA graphs: out of memory at step 3") as said:
        found = outcome(run, batches(times=2) + batches(times=2))
    assert len(said) == 1
    assert run.pieces == 1
    assert found[0] == outcome(stepper(dropout=0.1), batches(times=2) + batches(times=2))[0]


def test_out_of_memory_frees_all_recordings_and_the_batch_is_run_as_usual(monkeypatch):
    """Recordings hold the memory of the largest step. A batch too large for what is left comes through, in one piece."""
    recorder, real = FakeRecorder(), step.classify
    run = graphed(recorder)
    large = [[collate(ROWS, list(range(9)), pad_token_id=0, multiple=12)]]

    def classify(model, batch):
        if len(batch.labels) == 9 and run.path.graphs.recorded:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, batch)

    expected = outcome(stepper(), batches() + large + batches())
    monkeypatch.setattr(step, "classify", classify)
    with pytest.warns(UserWarning, match="without CUDA graphs: out of memory at step 9"):
        found = outcome(run, batches() + large + batches())
    assert_same(found, expected)
    assert run.pieces == 1
    assert [(recording.replays, recording.resets) for recording in recorder.recordings] == [(3, 1), (6, 1), (3, 1), (3, 1)]


def test_one_row_that_has_no_memory_beside_the_graphs_comes_through(monkeypatch):
    """It can't be halved, but the recordings can go."""
    real, run = step.classify, graphed(FakeRecorder())

    def classify(model, batch):
        if len(batch.labels) == 1 and run.path.graphs.recorded:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, batch)

    monkeypatch.setattr(step, "classify", classify)
    outcome(run, batches())
    with pytest.warns(UserWarning, match="without CUDA graphs: out of memory at step 9"):
        assert not run([collate(ROWS, [0], pad_token_id=0)]).skipped


def test_out_of_memory_without_graphs_halves_the_batch(monkeypatch):
    """When the recordings are gone and it is still too large, it goes through in pieces."""
    real = step.classify

    def classify(model, batch):
        if len(batch.labels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, batch)

    expected = outcome(stepper(), batches(times=1))[0]
    monkeypatch.setattr(step, "classify", classify)
    run = graphed(FakeRecorder())
    with pytest.warns(UserWarning, match="without CUDA graphs"), pytest.warns(UserWarning, match="in 2 pieces"):
        found = outcome(run, batches(times=1))[0]
    assert [report.loss for report in found] == pytest.approx([report.loss for report in expected], rel=1e-5)


class Counter(FakeRecorder):
    """A recorder whose recordings refer to nothing, as a CUDA graph does."""

    def recording(self, computation):
        return Recording(lambda: torch.ones(()), self.pool)


def test_recordings_are_freed_with_their_stepper(monkeypatch):
    """By counting references: no circle has to be found first, so their memory is free at once."""
    monkeypatch.setattr(torch, "allclose", lambda *_, **__: True)  # it replays nothing
    monkeypatch.setattr(cuda_graphs.Snapshot, "is_near", lambda *_: True)
    recorder = Counter()
    run = graphed(recorder)
    outcome(run, batches())
    recordings = [weakref.ref(recording) for recording in recorder.recordings]
    owner = weakref.ref(run)
    recorder.recordings.clear()
    gc.disable()
    try:
        del run
        assert owner() is None
        assert [recording() for recording in recordings] == [None] * 4
    finally:
        gc.enable()


def test_a_wider_batch_has_the_same_loss_and_gradient():
    """Filling takes no part: width is rounded up so that few shapes serve all batches."""
    narrow, wide = stepper(), stepper()
    short = (ROWS.lengths < ROWS.max_tokens).nonzero().flatten()[:3].tolist()
    one, other = (collate(ROWS, short, pad_token_id=0, multiple=multiple) for multiple in (1, ROWS.max_tokens))
    assert one.input_ids.shape[1] < other.input_ids.shape[1]
    first, second = narrow([one]), wide([other])
    assert first.loss == pytest.approx(second.loss, rel=1e-6)
    assert first.gradient_norm == pytest.approx(second.gradient_norm, rel=1e-5)


def test_the_fake_recorder_is_no_cheat():
    """It computes from the buffers of the recording: a batch that was not copied into them would show."""
    run = graphed(FakeRecorder())
    five = [collate(ROWS, [start, start + 1], pad_token_id=0, multiple=12) for start in range(0, 10, 2)]
    losses = [float(copy.deepcopy(run).backward(batch, 2)) for batch in five]
    assert [float(run.backward(batch, 2)) for batch in five] == losses


class FakeGenerator:
    """The random numbers of a device: a position, and whether a capture is on, in a state that can be exchanged."""

    def __init__(self, cuda, state=None):
        self.cuda, self.state = cuda, state or {"offset": 0, "capturing": False}

    def draw(self):
        """Fails as in torch 2.11: what is drawn outside of a capture from a state in one has no place."""
        if self.state["capturing"] != (self.cuda.capture is not None):
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        self.state["offset"] += 4

    def clone_state(self):
        return FakeGenerator(self.cuda, {"offset": self.state["offset"], "capturing": False})

    def graphsafe_set_state(self, other):
        self.state = other.state


class FakeStream:
    def __init__(self, device):
        self.device, self.waits_for = device, []

    def wait_stream(self, other):
        self.waits_for.append(other)


class FakeStreamContext:
    """No generator function: one whose end is never reached would end when it is freed."""

    def __init__(self, cuda, stream):
        self.cuda, self.stream = cuda, stream

    def __enter__(self):
        self.before = self.cuda.current_stream()
        self.cuda.set_stream(self.stream)

    def __exit__(self, *_):
        self.cuda.set_stream(self.before)


class FakeGraph:
    """A capture that the host's waiting invalidates: its end fails, and up to torch 2.13 does nothing else then."""

    def __init__(self, cuda):
        self.cuda, self.ended, self.pool = cuda, False, None

    def capture_begin(self, pool, **_):
        self.pool, self.cuda.capture, self.valid = pool, self, True
        self.generator = self.cuda.generators[self.cuda.device]
        self.generator.state["capturing"] = True
        self.cuda.used[pool] = self.cuda.used.get(pool, 0) + 1
        self.cuda.allocating.append((self.cuda.device, pool))

    def capture_end(self):
        self.cuda.capture = None
        if not self.valid:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.generator.state["capturing"] = False
        self.cuda.allocating.remove((self.cuda.device, self.pool))
        self.ended = True

    def reset(self):
        if self.ended:
            self.cuda.used[self.pool] -= 1
            self.ended = False


class FakeCuda:
    """Two devices, their streams, generators and pools, and a capture, begun and ended by torch's own torch.cuda.graph."""

    def __init__(self, monkeypatch):
        self.device, self.capture, self.mode, self.pools = 0, None, 0, 0
        self.streams = {index: FakeStream(index) for index in (0, 1)}
        self.generators = [FakeGenerator(self) for _ in (0, 1)]
        self.allocating, self.used = [], {}
        for name in ("current_device", "current_stream", "set_stream", "stream", "graph_pool_handle"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        for name in ("synchronize", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, lambda: None)
        monkeypatch.setattr(torch.cuda, "device", self.on_device)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device=None: FakeStream(device.index if device else self.device))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: FakeGraph(self))
        monkeypatch.setattr(torch.cuda, "default_generators", self.generators)
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: self.mode)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: setattr(self, "mode", mode))
        for name in ("_host_emptyCache", "_cuda_endAllocateToPool", "_cuda_releasePool"):
            monkeypatch.setattr(torch._C, name, getattr(self, name), raising=False)

    def current_device(self):
        return self.device

    def current_stream(self, _=None):
        return self.streams[self.device]

    def set_stream(self, stream):
        self.device = stream.device
        self.streams[stream.device] = stream

    def stream(self, stream):
        return FakeStreamContext(self, stream)

    @contextmanager
    def on_device(self, device):
        before, self.device = self.device, device.index
        try:
            yield
        finally:
            self.device = before

    def graph_pool_handle(self):
        self.pools += 1
        return (0, self.pools)

    def wait(self):
        """The host waits for the device: an error in a capture, and in the debug mode."""
        if self.capture is not None:
            self.capture.valid = False
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        if self.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    def _host_emptyCache(self):
        pass

    def _cuda_endAllocateToPool(self, device, pool):
        if (device, pool) not in self.allocating:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.allocating.remove((device, pool))

    def _cuda_releasePool(self, _, pool):
        self.used[pool] -= 1

    def state(self):
        """All that a failure must not change."""
        generators = [dict(generator.state) for generator in self.generators]
        used = {pool: count for pool, count in self.used.items() if count}
        return self.device, dict(self.streams), generators, list(self.allocating), used, self.mode, self.capture


@pytest.fixture
def cuda(monkeypatch):
    """torch.cuda with two devices that are none."""
    return FakeCuda(monkeypatch)


SECOND = torch.device("cuda:1")
WAYS = ("run", "rehearse", "record")


@pytest.mark.parametrize("way", WAYS)
def test_a_computation_is_on_the_device_of_the_model(cuda, way):
    """With the first device the current one: kernels launched on a stream of another device are in no graph."""
    places = []

    def computation():
        places.append((cuda.device, cuda.current_stream()))
        return torch.zeros(())

    recorder = CudaRecorder(SECOND)
    getattr(recorder, way)(computation)
    assert recorder.stream.device == 1
    assert places == [(1, recorder.stream)]
    assert cuda.device == 0


def test_a_device_without_a_number_is_the_current_one(cuda):
    """`cuda`, after torch.cuda.set_device(1), is the second GPU."""
    cuda.device = 1
    assert CudaRecorder(torch.device("cuda")).device == SECOND


@pytest.mark.parametrize("way", ["run", "rehearse"])
def test_a_computation_comes_after_what_was_launched_and_before_what_is_launched_next(cuda, way):
    """Also if it fails: what it had launched must not write into what comes after it."""
    outside, recorder = cuda.streams[1], CudaRecorder(SECOND)
    getattr(recorder, way)(lambda: torch.zeros(()))
    assert (recorder.stream.waits_for, outside.waits_for) == ([outside], [recorder.stream])
    with pytest.raises(ZeroDivisionError):
        getattr(recorder, way)(lambda: 1 / 0)
    assert (recorder.stream.waits_for, outside.waits_for) == ([outside] * 2, [recorder.stream] * 2)


def waits_after_drawing(cuda):
    """A computation that draws random numbers on device and host, and then makes the host wait."""

    def computation():
        cuda.generators[1].draw()
        torch.rand(1)
        cuda.wait()

    return computation


@pytest.mark.parametrize("way", ["rehearse", "record"])
def test_a_failed_computation_leaves_device_stream_random_numbers_and_allocator_as_they_were(cuda, way):
    """So that what follows is run as usual, dropout included."""
    recorder = CudaRecorder(SECOND)
    before, host = cuda.state(), torch.get_rng_state()
    with pytest.raises(RuntimeError):
        getattr(recorder, way)(waits_after_drawing(cuda))
    assert cuda.state() == before
    assert torch.equal(torch.get_rng_state(), host)
    cuda.generators[1].draw()


def test_a_capture_that_torch_ends_itself_is_not_ended_twice(cuda):
    """An error of Python invalidates no capture: torch ends it, and the pool is released once."""
    recorder = CudaRecorder(SECOND)
    recorder.record(lambda: torch.zeros(()))
    before = cuda.state()
    with pytest.raises(ZeroDivisionError):
        recorder.record(lambda: 1 / 0)
    assert cuda.state() == before


def test_the_fake_of_cuda_breaks_as_torch_does(cuda):
    """The twin: torch's own context manager alone leaves another stream, a captured generator, an allocating pool."""
    recorder = CudaRecorder(SECOND)
    before = cuda.state()
    graph = torch.cuda.graph(torch.cuda.CUDAGraph(), pool=recorder.pool, stream=recorder.stream)
    with pytest.raises(RuntimeError), cuda.on_device(SECOND), graph:
        cuda.wait()
    after = cuda.state()
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, False, False, False, True, True]
    with pytest.raises(RuntimeError, match="outside graph capture"):
        cuda.generators[1].draw()


def test_waiting_is_an_error_in_a_rehearsal_alone(cuda):
    """The first batch of a shape may wait, for example to fill a table."""
    recorder = CudaRecorder(SECOND)
    cuda.mode = 1
    modes = [getattr(recorder, way)(lambda: cuda.mode) for way in ("run", "rehearse")]
    assert modes == [1, "error"]
    assert cuda.mode == 1


def test_all_graphs_share_one_pool(cuda):
    """The memory of the largest, not the sum of all."""
    recorder = CudaRecorder(SECOND)
    graphs = [recorder.record(lambda: torch.zeros(()))[0] for _ in range(3)]
    assert {graph.pool for graph in graphs} == {recorder.pool}
    assert cuda.pools == 1


class Waits(TorchDispatchMode):
    """Counts the operators that make the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (aten._local_scalar_dense, aten.nonzero, aten.equal, aten.is_nonzero)
        return func(*args, **(kwargs or {}))


def waits_of_a_rehearsal(model, *, padded):
    """How often the host waits in the second batch of a shape, with the fused update as on a GPU."""
    bf16 = resolve_precision("bf16", torch.device("cpu"))
    run = Stepper(model.train(), TrainingConfig(), task=task_of(model), precision=bf16, total_steps=9)
    batch = collate(ROWS, rows_of_length(12, count=2) + [0] * padded, pad_token_id=0)
    with fused_updates(model):
        CudaRecorder(SECOND).run(lambda: run.backward(batch, 3))
        with Waits() as waits:
            CudaRecorder(SECOND).rehearse(lambda: run.backward(batch, 3))
    return waits.count


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("family", ["distilbert", *FAMILIES])
def test_no_family_makes_the_host_wait_in_a_rehearsal(cuda, family, padded):
    """Their own code looks for padding, unless it is told of a capture: every model would be refused."""
    targets = ["c_attn"] if family == "gpt2" else None
    model = inject(tiny(family), LoRAConfig(rank=4, alpha=8, dropout=0.1, targets=targets), seed=0)
    assert waits_of_a_rehearsal(model, padded=padded) == 0


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("family", ["distilbert", *FAMILIES])
def test_no_family_makes_the_host_wait_in_a_prediction(family, padded):
    """The mask is built without a look at the numbers; nested or not, afterwards the model has its own forward."""
    model, batch = tiny(family), collate(ROWS, rows_of_length(12, count=2) + [0] * padded, pad_token_id=0)
    asked = torch.cuda.is_current_stream_capturing
    with torch.no_grad(), Waits() as plain:
        expected = classify(model, batch)
    with torch.no_grad(), without_host_waits(model), without_host_waits(model), Waits() as waits:
        logits = classify(model, batch)
    assert torch.cuda.is_current_stream_capturing is asked
    assert "forward" not in vars(model)
    assert (waits.count, plain.count > 0) == (0, True)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["lora", "dora"])
@pytest.mark.parametrize("quantized", [False, True])
def test_no_adapter_makes_the_host_wait_in_a_rehearsal(cuda, variant, quantized):
    """Neither on plain nor on quantized weights."""
    model = tiny_distilbert(dropout=0.1)
    if quantized:
        quantize_base(model)
    model = inject(model, LoRAConfig(rank=4, alpha=8, dropout=0.1, variant=variant), seed=0)
    assert waits_of_a_rehearsal(model, padded=True) == 0


def rows_of_length(length, *, count):
    return (ROWS.lengths == length).nonzero().flatten()[:count].tolist()


def test_a_batch_without_padding_has_the_same_mask_in_warm_up_rehearsal_and_capture(cuda, monkeypatch):
    """Without one it is another attention kernel, which the warm-up would run in place of the one that is captured."""
    run, masks, real = stepper(), [], torch.nn.functional.scaled_dot_product_attention

    def attention(*args, attn_mask=None, **more):
        masks.append(attn_mask is not None)
        return real(*args, attn_mask=attn_mask, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    batch = collate(ROWS, rows_of_length(12, count=2), pad_token_id=0)
    for way in ("run", "rehearse"):
        getattr(CudaRecorder(SECOND), way)(lambda: run.backward(batch, 2))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    CudaRecorder(SECOND).record(lambda: run.backward(batch, 2))
    assert masks == [True] * 6  # two blocks each
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    run.backward(batch, 2)
    assert masks[6:] == [False] * 2  # the twin


def test_the_answer_about_captures_is_torchs_own_afterwards(cuda):
    """Also after an error."""
    before, recorder = torch.cuda.is_current_stream_capturing, CudaRecorder(SECOND)
    recorder.run(lambda: torch.zeros(()))
    with pytest.raises(ZeroDivisionError):
        recorder.run(lambda: 1 / 0)
    assert torch.cuda.is_current_stream_capturing is before


def config(**settings):
    return TrainingConfig(epochs=3, batch_size=4, learning_rate=1e-2, precision="fp32", **settings)


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_replays_what_it_computes(precision):
    """One graph for each shape, and the weights of the steps that were launched kernel by kernel."""
    run = graphed(CudaRecorder(torch.device("cuda")), device="cuda", precision=precision, dropout=0.1)
    expected = outcome(stepper(device="cuda", precision=precision, dropout=0.1), batches("cuda"))
    found = outcome(run, batches("cuda"))
    assert len(run.path.graphs.recorded) == 3
    for name, tensor in expected[1].items():
        assert torch.allclose(found[1][name], tensor, atol=1e-4), name


@needs_gpu
@pytest.mark.parametrize("phase", ["rehearsal", "capture"])
def test_on_a_gpu_a_model_that_can_not_be_captured_trains_as_usual(monkeypatch, phase):
    """With dropout, and in the same numbers: the failed attempt leaves nothing behind."""
    if phase == "capture":
        monkeypatch.setattr(CudaRecorder, "rehearse", CudaRecorder.run)
    run, plain = (stepper(device="cuda", dropout=0.1) for _ in range(2))
    for each in (run, plain):
        each.model.classifier.register_forward_pre_hook(lambda _, args: float(args[0].sum()) and None)
    use_graphs(run, CudaRecorder(torch.device("cuda")))
    with pytest.warns(UserWarning, match="trains without CUDA graphs"):
        found = outcome(run, batches("cuda"))
    expected = outcome(plain, batches("cuda"))
    for name, tensor in expected[1].items():
        assert torch.allclose(found[1][name], tensor, atol=1e-5), name


@needs_gpu
def test_a_gpu_is_not_waited_for_between_two_readings():
    """Once its shape is recorded, a step launches and goes on: torch turns any synchronization into an error here."""
    run = graphed(CudaRecorder(torch.device("cuda")), device="cuda", precision="bf16")
    steps = batches("cuda")
    outcome(run, steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for each in steps:
            run.launch(each)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not any(report.skipped for report in run.read())


@needs_gpu
def test_training_on_a_gpu_learns_what_training_on_a_cpu_learns():
    """The whole loop: resident rows, rounded widths, graphs, late readings; a line for every step all the same."""
    results = {}
    for device in ("cpu", "cuda"):
        log = MetricsLog()
        model = inject(tiny_distilbert(), LoRAConfig(rank=4, alpha=8, dropout=0.0), seed=0)
        train(model, ROWS, ROWS, config(device=device), pad_token_id=0, log=log, show_progress=False)
        results[device] = [event["loss"] for event in log.events if event["event"] == "step"]
    assert results["cuda"] == pytest.approx(results["cpu"], rel=1e-2)
