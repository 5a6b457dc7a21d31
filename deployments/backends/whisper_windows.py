"""Windows of many files through one Whisper model: those that wait together run as one batch."""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ctranslate2
import numpy as np

from deployments.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Prompts = list[list[int]]

CPU_ENCODED_AT_ONCE = 1
"""Windows. Each fills a CPU, and together they leave its caches: on one thread 8 windows of base took 5.8 s one by one,
6.1 by twos, 6.7 by fours and 7.3 at once; of tiny 2.7, 2.8, 3.0 and 3.3."""


class Left(Exception):
    """Nobody waits for the file any more; raised in its thread, through the library's code, and caught there."""


@dataclass(slots=True, eq=False)
class Windows:
    """Consecutive windows of 30 seconds of one file."""

    features: "NDArray[np.float32]"
    """Log-mel spectrograms [windows, mels, frames]."""
    encoded: "NDArray[Any] | None" = None
    """What the encoder made of them, once it has been needed: [windows, positions, width]."""

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, place: int) -> "Windows":
        """One of them, as windows."""
        rows = slice(place, place + 1)
        return Windows(self.features[rows], None if self.encoded is None else self.encoded[rows])


@dataclass(slots=True, eq=False)
class Call:
    """A method of the model on some windows, and its results when they are there."""

    windows: Windows
    method: Callable[[ctranslate2.StorageView, Prompts], Sequence[Any]]
    """Takes encoded windows and their prompts; one result for each window."""
    stopped: Callable[[], bool]
    prompts: Prompts = field(default_factory=list)
    """One for each window, where the method takes any."""
    alike: Hashable = None
    """Calls that have the same may run as one; None: this one runs alone."""
    results: Sequence[Any] = ()
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)


class WindowBatcher:
    """Runs calls in a thread of its own, first come, first served; those alike ride along up to `size` windows.

    What waits starts the moment the model is free. A file has one call at a time under way, so that a long one takes
    turns with all others.
    """

    def __init__(self, model: ctranslate2.models.Whisper, size: int) -> None:
        self._model = model
        self._size = size
        self._waiting: deque[Call] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._failed = False
        self._done = dict.fromkeys(("batches", "windows"), 0)
        self._thread = threading.Thread(target=self._run, name="whisper", daemon=True)
        self._thread.start()

    def run(self, call: Call) -> Sequence[Any]:
        """Results of the call; blocking. Raises EngineError, and Left when its file is stopped before its turn."""
        with self._changed:
            if self._closed:
                raise EngineError("the model was unloaded")
            self._waiting.append(call)
            self._changed.notify()
        call.done.wait()
        if call.error is not None:
            raise call.error
        return call.results

    def stats(self) -> dict[str, float]:
        """Counters of what was done; `failed` 1: the GPU is lost."""
        return {**self._done, "failed": float(self._failed)}

    def close(self) -> None:
        """Calls that wait get EngineError; returns when the batch that runs has ended. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    # ---- in the thread ----

    def _run(self) -> None:
        while batch := self._next():
            self._answer(batch)
        for call in self._waiting:
            call.error = EngineError("the model was unloaded")
            call.done.set()

    def _next(self) -> list[Call]:
        """Wait for calls and take those that run next. Empty: closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return []
            first = self._waiting.popleft()
            batch, windows = [first], len(first.windows)
            for call in list(self._waiting) if first.alike is not None else []:
                if call.alike == first.alike and windows + len(call.windows) <= self._size:
                    self._waiting.remove(call)
                    batch.append(call)
                    windows += len(call.windows)
            return batch

    def _answer(self, batch: list[Call]) -> None:
        """Run the batch, and when it fails each call by itself: only what is bad fails."""
        wanted = [call for call in batch if not call.stopped()]
        try:
            self._compute(wanted)
        except Exception as error:  # noqa: BLE001 – it is what the calls are answered with
            if len(wanted) > 1:
                for call in wanted:
                    self._answer([call])
            else:
                wanted[0].error = self._translated(error)
        for call in batch:
            if call not in wanted:
                call.error = Left()
            call.done.set()

    def _compute(self, calls: list[Call]) -> None:
        if not calls:
            return
        if fresh := [call.windows for call in calls if call.windows.encoded is None]:
            encoded = self._encode(_joined([windows.features for windows in fresh]))
            for windows, rows in zip(fresh, _split(encoded, fresh), strict=True):
                windows.encoded = rows
        joined = _joined([call.windows.encoded for call in calls if call.windows.encoded is not None])
        prompts = [prompt for call in calls for prompt in call.prompts]
        results = calls[0].method(ctranslate2.StorageView.from_array(joined), prompts)
        for call, part in zip(calls, _split(results, [call.windows for call in calls]), strict=True):
            call.results = part
        self._done["batches"] += 1
        self._done["windows"] += len(joined)

    def _encode(self, features: "NDArray[np.float32]") -> "NDArray[Any]":
        on_gpu = self._model.device != "cpu"
        at_once = len(features) if on_gpu else CPU_ENCODED_AT_ONCE
        return _joined(
            [
                _on_cpu(
                    self._model.encode(ctranslate2.StorageView.from_array(features[start : start + at_once]), on_gpu)
                )
                for start in range(0, len(features), at_once)
            ]
        )

    def _translated(self, error: Exception) -> Exception:
        if not isinstance(error, RuntimeError | ValueError):
            return error
        if str(error).startswith("CUDA failed") and "out of memory" not in str(error):
            self._failed = True  # no CUDA call works in this process any more
        return EngineError(f"CTranslate2 failed: {error}")


def _joined(arrays: "list[NDArray[Any]]") -> "NDArray[Any]":
    """One contiguous array, without a copy where it is there already."""
    return np.ascontiguousarray(arrays[0]) if len(arrays) == 1 else np.concatenate(arrays)


def _split(rows: Any, owners: Sequence[Windows]) -> list[Any]:
    """Consecutive rows, as many as each owner has windows."""
    ends = np.cumsum([len(windows) for windows in owners]).tolist()
    return [rows[end - len(windows) : end] for windows, end in zip(owners, ends, strict=True)]


def _on_cpu(encoded: ctranslate2.StorageView) -> "NDArray[Any]":
    if encoded.dtype == ctranslate2.DataType.bfloat16:  # numpy has none; the decoder converts it back
        encoded = encoded.to(ctranslate2.DataType.float32)
    return np.asarray(encoded)
