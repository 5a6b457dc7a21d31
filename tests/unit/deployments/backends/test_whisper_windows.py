"""WindowBatcher on a model that the test holds still."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ctranslate2")

from deployments.backends.whisper_windows import Call, Left, WindowBatcher, Windows
from deployments.errors import EngineError


class Model:
    """Encodes a window as its double. Results are [window, prompt]; window 6 fails, and 7 with what is no engine's."""

    device = "cpu"

    def __init__(self) -> None:
        self.encoded: list[list[float]] = []
        self.batches: list[list[float]] = []
        self.may_run = threading.Event()

    def encode(self, features: Any, to_cpu: bool) -> Any:
        assert not to_cpu
        self.encoded.append(np.array(features)[:, 0, 0].tolist())
        return _View(np.array(features) * 2)

    def generate(self, encoded: Any, prompts: list[list[int]]) -> list[Any]:
        windows = (np.array(encoded)[:, 0, 0] / 2).tolist()
        self.batches.append(windows)
        assert self.may_run.wait(20)
        if 6 in windows:
            raise RuntimeError("out of heads")
        if 7 in windows:
            raise ZeroDivisionError
        return list(zip(windows, prompts or [[]] * len(windows), strict=True))


class _View:
    dtype = None

    def __init__(self, array: np.ndarray) -> None:
        self.__array_interface__ = array.__array_interface__
        self._array = array


class Files:
    """Threads that call."""

    def __init__(self, batcher: WindowBatcher, model: Model) -> None:
        self._batcher, self._model = batcher, model
        self._threads = ThreadPoolExecutor(32)

    def call(
        self, *values: float, alike: Any = "a", stopped: Callable[[], bool] = lambda: False, windows: Any = None
    ) -> "Future[Any]":
        windows = windows or Windows(np.array(values, np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32))
        call = Call(windows, self._model.generate, stopped, [[int(value)] for value in values], alike)
        waiting = len(self._batcher._waiting)
        future = self._threads.submit(self._batcher.run, call)
        until(lambda: len(self._batcher._waiting) > waiting or self._model.batches)
        return future

    def waiting(self, count: int) -> None:
        until(lambda: len(self._batcher._waiting) == count)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def batcher(model: Model):
    batcher = WindowBatcher(model, 4)
    yield batcher
    model.may_run.set()
    batcher.close()


@pytest.fixture
def files(batcher: WindowBatcher, model: Model) -> Files:
    """The model is busy with window 100."""
    files = Files(batcher, model)
    files.call(100)
    until(lambda: model.batches)
    return files


def test_what_waits_together_runs_together_and_everyone_gets_their_own(files: Files, model: Model) -> None:
    futures = []
    for count, values in enumerate([(1,), (2, 3), (4,), (5,)], 1):
        futures.append(files.call(*values))
        files.waiting(count)
    model.may_run.set()
    assert [future.result(10) for future in futures] == [[(1, [1])], [(2, [2]), (3, [3])], [(4, [4])], [(5, [5])]]
    assert model.batches == [[100], [1, 2, 3, 4], [5]]


def test_only_those_alike_share_a_batch_and_some_run_alone(files: Files, model: Model) -> None:
    for count, (value, alike) in enumerate([(1, "a"), (2, "b"), (3, None), (4, None), (5, "a"), (8, "b")], 1):
        files.call(value, alike=alike)
        files.waiting(count)
    model.may_run.set()
    files.waiting(0)
    until(lambda: len(model.batches) == 5)
    assert model.batches == [[100], [1, 5], [2, 8], [3], [4]]


def test_a_call_of_more_windows_than_a_batch_has_runs_as_it_is(files: Files, model: Model) -> None:
    future = files.call(1, 2, 3, 4, 5, 8)
    model.may_run.set()
    assert len(future.result(10)) == 6


def test_windows_are_encoded_once_and_one_by_one_on_a_cpu(files: Files, model: Model) -> None:
    windows = Windows(np.arange(1, 4, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32))
    model.may_run.set()
    assert len(files.call(1, 2, 3, windows=windows).result(10)) == 3
    assert files.call(2, windows=windows[1]).result(10) == [(2, [2])]
    assert model.encoded == [[100], [1], [2], [3]]


def test_one_bad_call_among_many_fails_alone(files: Files, model: Model) -> None:
    futures = []
    for count, value in enumerate([1, 6, 2, 7], 1):
        futures.append(files.call(value))
        files.waiting(count)
    model.may_run.set()
    assert futures[0].result(10) == [(1, [1])]
    assert futures[2].result(10) == [(2, [2])]
    with pytest.raises(EngineError, match="out of heads"):
        futures[1].result(10)
    with pytest.raises(ZeroDivisionError):
        futures[3].result(10)


def test_a_call_whose_file_is_stopped_never_runs(files: Files, model: Model) -> None:
    left = threading.Event()
    future = files.call(1, stopped=left.is_set)
    files.waiting(1)
    left.set()
    model.may_run.set()
    with pytest.raises(Left):
        future.result(10)
    assert model.batches == [[100]]


def test_close_answers_those_who_wait(files: Files, batcher: WindowBatcher, model: Model) -> None:
    future = files.call(1)
    files.waiting(1)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    until(lambda: batcher._closed)
    model.may_run.set()
    closing.join(10)
    with pytest.raises(EngineError, match="unloaded"):
        future.result(10)
    with pytest.raises(EngineError, match="unloaded"):
        batcher.run(Call(Windows(np.zeros((1, 1, 1), np.float32)), model.generate, lambda: False))


def test_a_lost_gpu_is_told(batcher: WindowBatcher, model: Model) -> None:
    def fail(message: str) -> None:
        def method(encoded: Any, prompts: Any) -> Any:
            raise RuntimeError(message)

        with pytest.raises(EngineError, match=message):
            batcher.run(Call(Windows(np.zeros((1, 1, 1), np.float32)), method, lambda: False))

    fail("CUDA failed with error out of memory")
    assert batcher.stats()["failed"] == 0
    fail("CUDA failed with error unspecified launch failure")
    assert batcher.stats()["failed"] == 1
