"""Batches that fit, networks that take turns: nothing is lost when memory runs out."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the reference environment")

from ego_assets.schema.errors import BackendUnavailable, DeviceMemoryExhausted  # noqa: E402
from resources.models import torch_device as torch_device_module  # noqa: E402
from resources.models import torch_runtime  # noqa: E402
from resources.models.registry import RAFT_LARGE, RAFT_SMALL  # noqa: E402
from resources.models.torch_runtime import (  # noqa: E402
    MAX_AUTO_BATCH,
    Batches,
    HeldNetwork,
    make_room,
    release_memory,
    resolved_precision,
    shared_detector,
    shared_network,
)

CPU = torch.device("cpu")


class Device:
    """Doubles numbers as long as a batch has at most ``room`` of them, and remembers the sizes it was asked for."""

    def __init__(self, room: int, *, error: type[Exception] | None = None) -> None:
        self.room = room
        self.sizes: list[int] = []
        self.error = error or torch.OutOfMemoryError

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.sizes.append(len(items))
        if len(items) > self.room:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [2 * item for item in items]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network that another test left behind takes part; collecting garbage after every error would take long."""
    monkeypatch.setattr(torch_runtime, "_held", set())
    monkeypatch.setattr(torch_runtime, "release_memory", lambda: None)


@given(
    count=st.integers(0, 60), batch_size=st.integers(0, 40), room=st.integers(1, 50), as_stream=st.booleans()
)
def test_nothing_is_lost_and_the_order_stays(count: int, batch_size: int, room: int, as_stream: bool) -> None:
    batches, device = Batches(batch_size, device=CPU), Device(room)
    items = list(range(count))
    found = list(batches.stream(iter(items), device)) if as_stream else batches.run(items, device)
    assert found == [2 * item for item in items]
    assert all(size <= max(1, batch_size) for size in device.sizes)
    # Once a size was refused, no batch is that large again.
    for place, size in enumerate(device.sizes):
        if size > room:
            later = device.sizes[place + 1 :]
            # One further try of the same size, after room was made.
            assert all(other < size or other == size == device.sizes[place + 1] for other in later[:1])
            assert all(other <= max(1, size // 2) for other in later[1:])


@given(rooms=st.lists(st.integers(1, 20), min_size=1, max_size=12), batch_size=st.integers(1, 32))
def test_memory_that_shrinks_while_batches_run(rooms: list[int], batch_size: int) -> None:
    batches, device = Batches(batch_size, device=CPU), Device(20)
    left = iter(rooms)

    def call(items: Sequence[int]) -> list[int]:
        device.room = next(left, device.room)
        return device(items)

    assert batches.run(list(range(50)), call) == [2 * item for item in range(50)]


def test_batches_stay_small_after_memory_ran_out() -> None:
    batches, device = Batches(16, device=CPU), Device(5)
    batches.run(list(range(16)), device)
    assert batches.size == 4
    device.sizes.clear()
    batches.run(list(range(16)), device)
    assert device.sizes == [4, 4, 4, 4]


def test_a_single_item_that_does_not_fit_says_what_to_do() -> None:
    with pytest.raises(DeviceMemoryExhausted, match="smaller input in the profile"):
        Batches(8, device=CPU).run([1, 2, 3], Device(0))
    with pytest.raises(DeviceMemoryExhausted):
        Batches(0, device=CPU).run([1], Device(0))


def test_results_before_the_one_that_does_not_fit_are_given_out() -> None:
    def call(items: Sequence[int]) -> list[int]:
        if 5 in items:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return list(items)

    stream = Batches(2, device=CPU).stream(range(8), call)
    assert [next(stream) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(DeviceMemoryExhausted):
        # 4 is halved from 5, and 5 is what does not fit.
        list(stream)


def test_libraries_that_name_the_error_otherwise() -> None:
    assert Batches(8, device=CPU).run([1, 2, 3], Device(1, error=RuntimeError)) == [2, 4, 6]


def test_other_errors_pass_and_change_nothing() -> None:
    def fails(items: Sequence[int]) -> list[int]:
        raise ValueError("expected RGB")

    for batch_size in (0, 4):
        batches = Batches(batch_size, device=CPU)
        with pytest.raises(ValueError, match="expected RGB"):
            batches.run([1, 2], fails)
        assert batches.size == (batch_size or 1)


def test_too_few_results_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 3 results of a batch, got 2"):
        Batches(4, device=CPU).run([1, 2, 3], lambda items: items[1:])


def test_items_are_taken_a_batch_at_a_time() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    stream = Batches(4, device=CPU).stream(source(), Device(100))
    assert next(stream) == 0
    assert len(taken) == 4


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size: expected 0 or more, got -1"):
        Batches(-1, device=CPU)


def test_some_items_go_in_smaller_batches_whatever_fits() -> None:
    batches, device = Batches(8, device=CPU), Device(100)
    assert list(batches.stream(range(7), device, max_batch=3)) == [2 * item for item in range(7)]
    assert device.sizes == [3, 3, 1]
    device.sizes.clear()
    list(batches.stream(range(9), device))
    assert device.sizes == [8, 1], "others are not concerned"
    device.sizes.clear()
    list(batches.stream(range(9), device, max_batch=50))
    assert device.sizes == [8, 1]
    with pytest.raises(ValueError, match="max_batch: expected 1 or more, got 0"):
        list(batches.stream(range(2), device, max_batch=0))


class FakeGpu:
    """Memory of a GPU as PyTorch reports it: weights that the first call brings, and what every item takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, free: int, weights: int, per_item: int) -> None:
        self.allocated = self.peak = 0
        self.free, self.weights, self.per_item = free, weights, per_item
        self.cached = 0
        self.is_begun = False
        monkeypatch.setattr(torch.cuda, "init", self._begin)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: self.allocated + self.cached)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: self._reset())
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: self.allocated)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.peak)
        monkeypatch.setattr(
            torch.cuda, "mem_get_info", lambda device: (self.free - self.allocated - self.cached, self.free)
        )

    def _begin(self) -> None:
        self.is_begun = True

    def _reset(self) -> None:
        if not self.is_begun:
            raise RuntimeError("Invalid device argument : did you call init?")
        self.peak = self.allocated

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.allocated = self.weights
        used = self.weights + len(items) * self.per_item
        self.peak = max(self.peak, used)
        if used > self.free:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return list(items)


@pytest.mark.parametrize(
    ("free", "weights", "per_item", "expected"),
    [(1000, 200, 20, 32), (1000, 200, 1, MAX_AUTO_BATCH), (1000, 200, 790, 1), (10_000, 4000, 100, 48)],
)
def test_the_memory_of_one_item_chooses_the_batch(
    monkeypatch: pytest.MonkeyPatch, free: int, weights: int, per_item: int, expected: int
) -> None:
    gpu = FakeGpu(monkeypatch, free=free, weights=weights, per_item=per_item)
    batches = Batches(0, device=SimpleNamespace(type="cuda"))
    assert batches.size == 1
    assert batches.run(list(range(100)), gpu) == list(range(100))
    assert batches.size == expected


def test_memory_that_pytorch_keeps_for_later_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch, free=1000, weights=200, per_item=20)
    gpu.cached = 500
    batches = Batches(0, device=SimpleNamespace(type="cuda"))
    batches.run(list(range(100)), gpu)
    assert batches.size == 32


@pytest.mark.parametrize(("is_compiled", "expected"), [(True, 32), (False, 1)])
def test_memory_that_compiling_takes_does_not_count(
    monkeypatch: pytest.MonkeyPatch, is_compiled: bool, expected: int
) -> None:
    gpu = FakeGpu(monkeypatch, free=1000, weights=200, per_item=20)
    sizes: list[int] = []

    def call(items: Sequence[int]) -> list[int]:
        found = gpu(items)
        if not sizes:
            gpu.peak = 1000
        sizes.append(len(items))
        return found

    batches = Batches(0, device=SimpleNamespace(type="cuda"), is_compiled=is_compiled)
    assert batches.run(list(range(70)), call) == list(range(70)), "each item once, in order"
    assert batches.size == expected
    assert sum(sizes) == 70 and sizes[:2] == [1, 1]


def test_the_first_call_of_a_compiled_network_is_tried_again_after_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = FakeGpu(monkeypatch, free=10, weights=5, per_item=10)
    batches = Batches(0, device=SimpleNamespace(type="cuda"), is_compiled=True)
    with pytest.raises(DeviceMemoryExhausted, match="One picture"):
        batches.run([1], gpu)
    gpu.free = 1000
    assert list(batches.stream(range(5), gpu)) == list(range(5))
    assert batches.size == MAX_AUTO_BATCH


def test_an_error_in_the_first_call_leaves_the_choice_open(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch, free=1000, weights=100, per_item=10)
    batches = Batches(0, device=SimpleNamespace(type="cuda"))

    def fails(items: Sequence[int]) -> list[int]:
        raise ValueError("expected RGB")

    with pytest.raises(ValueError, match="expected RGB"):
        batches.run([1], fails)
    batches.run([1, 2], gpu)
    assert batches.size > 1


def held(**options: Any) -> HeldNetwork:
    return HeldNetwork(torch.nn.Linear(3, 2), **{"device": "cpu", **options})


class MovableNetwork:
    """Stands for an idle network on a GPU."""

    def __init__(self) -> None:
        self.name = "idle"
        self.is_on_device = True

    def set_aside(self) -> bool:
        was, self.is_on_device = self.is_on_device, False
        return was


def test_idle_networks_move_before_batches_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = MovableNetwork()
    monkeypatch.setattr(torch_runtime, "_held", {idle})
    sizes: list[int] = []

    def call(items: Sequence[int]) -> Sequence[int]:
        sizes.append(len(items))
        if idle.is_on_device:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return items

    batches = Batches(8, device=CPU)
    assert batches.run(list(range(8)), call) == list(range(8))
    assert sizes == [8, 8]
    assert batches.size == 8


def test_a_network_that_moves_itself_away_does_not_try_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the error the network that ran is idle as well: it goes to the CPU and comes back with every try."""
    own = MovableNetwork()
    monkeypatch.setattr(torch_runtime, "_held", {own})
    device = Device(2)

    def call(items: Sequence[int]) -> list[int]:
        own.is_on_device = True
        return device(items)

    assert Batches(8, device=CPU).run([1, 2, 3], call) == [2, 4, 6]
    assert device.sizes == [3, 3, 1, 1, 1]
    with pytest.raises(DeviceMemoryExhausted):
        Batches(8, device=CPU).run(
            [1], lambda items: (setattr(own, "is_on_device", True), Device(0)(items))[1]
        )


def test_a_network_answers_without_gradients() -> None:
    network = held(precision="float32", compile="never")
    with network.in_use() as call:
        answer = call(torch.ones(4, 3))
    assert answer.shape == (4, 2)
    assert answer.is_inference()
    assert not any(parameter.requires_grad for parameter in network.network.parameters())
    assert not network.network.training


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_parameters_have_the_precision_asked_for(precision: str) -> None:
    network = held(precision=precision)
    assert network.dtype == getattr(torch, precision)
    assert {parameter.dtype for parameter in network.network.parameters()} == {network.dtype}


def test_auto_is_exact_and_uncompiled_on_the_cpu() -> None:
    network = held()
    assert network.dtype == torch.float32
    assert not network.is_compiled


def test_compiling_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    network = held(compile="always")
    assert network.is_compiled
    assert compiled == [network.network]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "half"}, "precision: expected one of auto, float32, bfloat16, float16, got 'half'"),
        ({"compile": "yes"}, "compile: expected one of auto, always, never, got 'yes'"),
        ({"device": "gpu"}, "device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
    ],
)
def test_settings_that_do_not_exist(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        held(**options)


class OnGpu(HeldNetwork):
    """A network that believes it is on a GPU; ``meta`` tensors stand for the GPU's."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(3, 2), device="cpu")
        self.device = SimpleNamespace(type="cuda", index=0)
        self.places: list[str] = []
        self.fails = 0
        self.network = SimpleNamespace(to=self._to)

    def _to(self, place: Any) -> None:
        if place is self.device and self.fails:
            self.fails -= 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.places.append("cpu" if place == "cpu" else "gpu")


def test_what_is_in_use_stays() -> None:
    network = OnGpu()
    assert not network.set_aside()
    with network.in_use():
        with network.in_use():
            assert not network.set_aside()
        assert not network.set_aside(), "the outer user still needs it"
        assert not make_room()
    assert make_room()
    assert not make_room(), "it is away already"
    with network.in_use():
        pass
    assert network.places == ["gpu", "cpu", "gpu"]


def test_a_user_that_fails_is_a_user_no_more() -> None:
    network = OnGpu()
    with pytest.raises(ValueError, match="expected"), network.in_use():
        raise ValueError("expected RGB")
    assert network.set_aside()


def test_weights_that_do_not_fit_push_an_idle_network_aside() -> None:
    idle, wanted = OnGpu(), OnGpu()
    with idle.in_use():
        pass
    wanted.fails = 1
    with wanted.in_use():
        assert idle.places == ["gpu", "cpu"]
        assert wanted.places == ["cpu", "gpu"]


def test_weights_that_do_not_fit_at_all() -> None:
    wanted = OnGpu()
    wanted.fails = 1
    with pytest.raises(DeviceMemoryExhausted, match=r"Linear: its weights \(0.00 GB\)"), wanted.in_use():
        pass
    assert wanted.places == ["cpu"], "parts that had arrived were taken back"
    assert not wanted.set_aside(), "it never arrived"
    with wanted.in_use():
        assert wanted.places == ["cpu", "gpu"]


def test_weights_that_do_not_fit_neither_shrink_batches_nor_blame_the_picture() -> None:
    wanted, batches = OnGpu(), Batches(8, device=CPU)
    wanted.fails, wanted.name, wanted._weights_bytes = 100, "SAM 2.1 large", 897_000_000

    def call(items: Sequence[int]) -> Sequence[int]:
        with wanted.in_use():
            return items

    with pytest.raises(DeviceMemoryExhausted, match=r"SAM 2.1 large: its weights \(0.90 GB\)") as refused:
        batches.run(list(range(8)), call)
    assert "picture" not in str(refused.value)
    assert batches.size == 8 and wanted.fails == 99, "once is enough"
    wanted.fails = 0
    assert batches.run(list(range(8)), call) == list(range(8))


def test_the_size_of_weights_is_that_of_their_precision() -> None:
    assert held(precision="float32")._weights_bytes == 4 * 8
    assert held(precision="bfloat16")._weights_bytes == 2 * 8


def test_networks_on_the_cpu_are_left_alone() -> None:
    network = held()
    with network.in_use():
        pass
    assert not make_room()


def test_networks_that_nobody_holds_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    known: weakref.WeakSet[HeldNetwork] = weakref.WeakSet()
    monkeypatch.setattr(torch_runtime, "_held", known)
    network = held()
    assert len(known) == 1
    del network
    gc.collect()
    assert not known


def shared(load: Callable[..., HeldNetwork] | None = None, **others: Any) -> HeldNetwork:
    """The network of a card in a folder, with digest, on the CPU; keywords say what is another one."""
    arguments = {
        "card": RAFT_LARGE,
        "location": Path("weights"),
        "digest": "0" * 64,
        "device": "cpu",
        **others,
    }
    return shared_network(load=load or (lambda hold: hold(torch.nn.Linear(3, 2))), **arguments)


def test_a_network_is_loaded_once_and_as_long_as_somebody_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_runtime, "_held", weakref.WeakSet())
    loads = 0

    def load(hold: Any) -> HeldNetwork:
        nonlocal loads
        loads += 1
        return held()

    first = shared(load)
    assert shared(load) is first and loads == 1
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
    shared(load)
    assert loads == 2


@pytest.mark.parametrize(
    "other", [{"card": RAFT_SMALL}, {"location": Path("elsewhere")}, {"digest": "1" * 64}], ids=str
)
def test_weights_that_differ_in_anything_are_other_networks(other: dict[str, Any]) -> None:
    first = shared()
    assert shared(**other) is not first


def test_a_network_is_held_as_its_settings_say_unless_its_loader_says_otherwise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, torch_runtime.__name__):
        network = shared(
            lambda hold: hold(torch.nn.Linear(3, 2), compile="never"),
            location=Path("other"),
            precision="bfloat16",
            compile="always",
        )
    assert network.dtype == torch.bfloat16 and not network.is_compiled and network.device == CPU
    assert caplog.messages == [f"{RAFT_LARGE.name} on cpu, bfloat16, not compiled"]


def test_a_network_that_could_not_be_loaded_is_tried_again() -> None:
    def damaged(hold: Any) -> HeldNetwork:
        raise BackendUnavailable("damaged")

    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="damaged"):
            shared(damaged, digest="2" * 64)
    assert isinstance(shared(digest="2" * 64), HeldNetwork)


def test_threads_that_need_a_network_at_once_load_it_once() -> None:
    began, loaded, found = threading.Barrier(4), [], []

    def load(hold: Any) -> HeldNetwork:
        loaded.append(1)
        time.sleep(0.05)
        return held()

    def build() -> None:
        began.wait()
        found.append(shared(load, digest="3" * 64))

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 1 and len(found) == 4 and len(set(map(id, found))) == 1


def test_settings_that_come_to_the_same_share_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_runtime, "torch_device", lambda name: places[name])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch_runtime, "_can_compile", lambda: True)
    gpu, other = torch.device("cuda"), torch.device("cuda:1")
    places = {"auto": gpu, "cuda": gpu, "cuda:0": torch.device("cuda:0"), "cuda:1": other, "cpu": CPU}

    def network(device: str, precision: Any = "auto", compile: Any = "auto") -> HeldNetwork:
        # There is no such GPU: what is loaded stays on the CPU.
        return shared(
            lambda _: HeldNetwork(torch.nn.Linear(3, 2), device="cpu"),
            device=device,
            precision=precision,
            compile=compile,
        )

    alike = [network("auto"), network("cuda"), network("cuda:0", "bfloat16", "always")]
    assert len(set(map(id, alike))) == 1
    on_cpu = network("cpu")
    assert network("cpu", "float32", "never") is on_cpu
    different = [
        *(alike[0], on_cpu, network("cuda:1")),
        *(network("auto", "float32"), network("auto", "auto", "never")),
    ]
    assert len(set(map(id, different))) == len(different)


def test_a_gpu_that_imitates_bfloat16_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def capability(device: Any) -> tuple[int, int]:
        asked.append(device)
        return (7, 5) if device.index == 1 else (8, 0)

    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    new, old = torch.device("cuda:0"), torch.device("cuda:1")
    assert [resolved_precision("auto", device) for device in (new, old, CPU)] == [
        "bfloat16",
        "float32",
        "float32",
    ]
    assert asked == [new, old]
    assert resolved_precision("bfloat16", new) == resolved_precision("bfloat16", CPU) == "bfloat16"
    with pytest.raises(BackendUnavailable, match=r"cuda:1 has none \(compute capability 7\.5, expected 8\.0"):
        resolved_precision("bfloat16", old)


@pytest.mark.parametrize("lacking", ["", "compiler", "headers"])
def test_without_what_compiling_needs_nothing_is_compiled_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, lacking: str
) -> None:
    (tmp_path / "Python.h").touch()
    headers = tmp_path / "none" if lacking == "headers" else tmp_path
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(torch_runtime.shutil, "which", lambda name: "" if lacking == "compiler" else name)
    monkeypatch.setattr(torch_runtime.sysconfig, "get_paths", lambda: {"include": str(headers)})
    monkeypatch.setattr(torch_runtime.sysconfig, "get_config_var", lambda name: str(headers))
    torch_runtime._can_compile.cache_clear()
    gpu = torch.device("cuda:0")
    try:
        assert [torch_runtime.compiles("auto", gpu) for _ in range(2)] == [not lacking] * 2
        assert torch_runtime.compiles("always", gpu), "what is demanded is tried"
        assert not torch_runtime.compiles("auto", CPU) and not torch_runtime.compiles("never", gpu)
    finally:
        torch_runtime._can_compile.cache_clear()
    said = {"": [], "compiler": ["a C compiler"], "headers": ["the headers of Python"]}[lacking]
    assert len(caplog.messages) == len(said)
    assert all(words in message for words, message in zip(said, caplog.messages, strict=True))


def test_every_compiled_network_may_compile_for_many_shapes_in_every_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Recent releases keep the setting for each thread, so that it must hold where the network runs."""
    from torch._dynamo import config

    monkeypatch.setattr(torch, "compile", lambda network: network)
    whole = HeldNetwork(torch.nn.Linear(2, 2), device="cpu", compile="always")
    parts = HeldNetwork(torch.nn.Linear(2, 2), device="cpu", compile="never", has_compiled_parts=True)

    def limit(network: HeldNetwork) -> int:
        with network.in_use():
            return int(config.recompile_limit)

    for network in (whole, parts):
        assert network.is_compiled and network.described == "Linear on cpu, float32, compiled"
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(limit, network).result() == 64


def test_what_cannot_be_compiled_is_not_blamed_on_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import TorchDynamoException

    monkeypatch.setattr(torch, "compile", lambda network: network)
    network = HeldNetwork(torch.nn.Linear(2, 2), device="cpu", compile="always")
    with pytest.raises(BackendUnavailable, match=r"no ptxas here.*`compile: never`"), network.in_use():
        raise TorchDynamoException("no ptxas here\nand much more")
    with pytest.raises(TorchDynamoException), network.in_use():
        raise TorchDynamoException("CUDA out of memory. Tried to allocate 2 GiB while tuning")
    with pytest.raises(TorchDynamoException), held().in_use():
        raise TorchDynamoException("of something else: this network is not compiled")


def test_several_threads_share_a_network_while_room_is_made() -> None:
    network, stop, problems = OnGpu(), threading.Event(), []

    def use() -> None:
        for _ in range(200):
            with network.in_use():
                # The last move was to the GPU for as long as anybody is inside.
                if network.places[-1] != "gpu":
                    problems.append("moved while in use")

    def tidy() -> None:
        while not stop.is_set():
            make_room()
            held()

    users = [threading.Thread(target=use) for _ in range(3)]
    tidier = threading.Thread(target=tidy)
    for thread in (tidier, *users):
        thread.start()
    for thread in users:
        thread.join()
    stop.set()
    tidier.join()
    assert not problems
    assert network.set_aside() or network.places[-1] == "cpu"


def test_several_threads_share_batches() -> None:
    batches, device, found = Batches(16, device=CPU), Device(3), {}

    def work(number: int) -> None:
        items = list(range(1000 * number, 1000 * number + 40))
        found[number] = batches.run(items, device)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert found[number] == [2 * item for item in range(1000 * number, 1000 * number + 40)]
    assert batches.size <= 3


def test_memory_is_released_where_there_is_no_gpu() -> None:
    release_memory()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("any words"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_want_of_memory_is_told_from_other_failures(error: Exception, expected: bool) -> None:
    assert torch_runtime.is_out_of_memory(error) is expected


def test_a_gpu_that_is_lost_is_not_blamed_on_the_clip() -> None:
    network = held()
    with pytest.raises(BackendUnavailable, match="Begin the run again") as refused, network.in_use():
        raise RuntimeError(
            "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"
        )
    assert not refused.value.about_clip and "might be" not in str(refused.value)
    # The network is given back, and other failures stay what they are.
    assert network._users == 0
    with pytest.raises(RuntimeError, match="invalid configuration"), network.in_use():
        raise RuntimeError("CUDA error: invalid configuration argument")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("CUDA driver error: an illegal memory access was encountered", True),
        ("Triton Error [CUDA]: an illegal memory access was encountered", True),
        ("CUDA error: unknown error", True),
        ("CUDA error: the launch timed out and was terminated", True),
        ("Triton Error [CUDA]: out of memory", False),
        ("an illegal memory access in some library", False),
    ],
)
def test_a_lost_gpu_is_known_by_its_words(said: str, expected: bool) -> None:
    assert torch_runtime.is_gpu_lost(RuntimeError(said)) is expected


def test_giving_memory_of_a_lost_gpu_back_hides_no_other_error(monkeypatch: pytest.MonkeyPatch) -> None:
    network = OnGpu()

    def lost(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with network.in_use():
        pass
    monkeypatch.setattr(network.network, "to", lost)
    assert not make_room()
    monkeypatch.undo()
    for name, answer in (
        ("is_available", lambda: True),
        ("is_initialized", lambda: True),
        ("empty_cache", lost),
    ):
        monkeypatch.setattr(torch.cuda, name, answer)
    torch_runtime.release_memory()


def test_a_network_that_cannot_be_brought_to_a_lost_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    network = held()

    def lost(*_: Any) -> None:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr(network.network, "to", lost)
    with pytest.raises(BackendUnavailable, match="kernel's log"), network.in_use():
        pytest.fail("was brought there")
    assert network._users == 0


def test_memory_is_released_to_the_gpu_after_garbage_was_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only garbage holds is still taken when the cache is emptied before."""
    done: list[str] = []
    monkeypatch.setattr(torch_runtime.gc, "collect", lambda: done.append("collected"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("emptied"))
    for is_used in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda is_used=is_used: is_used)
        release_memory()
    assert done == ["collected", "collected", "emptied"]


@pytest.mark.parametrize("index", [1, 3])
def test_the_gpu_of_a_network_is_the_current_one_while_it_is_in_use(
    monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    current: list[Any] = []

    @contextmanager
    def device(place: Any) -> Iterator[None]:
        current.append(place)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    network = OnGpu()
    network.device = SimpleNamespace(type="cuda", index=index)
    with network.in_use():
        assert current == [network.device]
    assert current == []


def test_networks_of_the_privacy_pass_are_exact_and_uncompiled_and_shared_by_their_digests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a GPU as well, where others run in bfloat16 and compiled."""
    monkeypatch.setattr(torch_runtime, "torch_device", lambda name: torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch_runtime, "_can_compile", lambda: True)
    monkeypatch.setattr(torch, "compile", lambda network: network)

    def detector(digest: str) -> HeldNetwork:
        return shared_detector(
            RAFT_LARGE, Path("weights"), digest, lambda: torch.nn.Linear(3, 2), device="auto"
        )

    first = detector("4" * 64)
    assert first.dtype == torch.float32 and not first.is_compiled
    assert detector("4" * 64) is first
    assert detector("5" * 64) is not first


def test_the_cpu_is_taken_openly(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    torch_device_module._warn_of_cpu.cache_clear()
    assert [torch_device_module.torch_device(name).type for name in ("auto", "cpu", "auto")] == ["cpu"] * 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "device: auto takes the CPU" in caplog.text
