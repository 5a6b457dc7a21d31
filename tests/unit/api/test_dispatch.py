"""Dispatch with a controller and model replicas that are plain objects."""

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from api import dispatch as module
from api.dispatch import Dispatch
from deployments.backends.base import ModelCard, Task
from deployments.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineError,
    InvalidRequest,
    MantaError,
    ModelDisabled,
    ModelLoadFailed,
    ModelNotFound,
    ModelUnloaded,
    NotReady,
    Overloaded,
)
from deployments.states import ModelStatus, Report, State, Update
from tests.unit.paper_handles import Handle, Response, Unary
from tests.unit.waiting import until

GONE = DeploymentUnavailableError(DeploymentID("model", "m-a"))


class PaperController:
    """Pushes what the test sets; counts what it is asked to load."""

    def __init__(self, *cards: ModelCard) -> None:
        self.cards = list(cards)
        self.statuses: dict[str, ModelStatus] = {}
        self.version = 0
        self.loads: list[str] = []
        self.reports: list[Report] = []
        self.on_load: Callable[[str], None] = lambda name: None
        self.news = asyncio.Event()
        for card in cards:
            self.statuses[card.name] = ModelStatus(State.ABSENT, f"m-{card.name}")

    def set(self, name: str, state: State, **fields: Any) -> None:
        self.statuses[name] = ModelStatus(state, f"m-{name}", **fields)
        self.version += 1
        self.news.set()

    async def sync(self, report: Report) -> Update:
        self.reports.append(report)
        if report.version >= self.version:
            self.news.clear()
            try:
                async with asyncio.timeout(0.05):
                    await self.news.wait()
            except TimeoutError:
                pass
        return Update("e", self.version, dict(self.statuses), self.cards, whole=True)

    async def load(self, name: str) -> None:
        self.loads.append(name)
        self.on_load(name)

    def handle(self) -> Handle:
        return Handle(sync=self.sync, load=self.load)


def card(name: str, **fields: Any) -> ModelCard:
    return ModelCard(name, [Task.CHAT], 0, "echo", **fields)


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    made: list[Dispatch] = []

    async def build(
        controller: PaperController, replica: Handle | None = None, timeout: float = 5.0, **options: Any
    ) -> Dispatch:
        monkeypatch.setattr(module, "model_handle", lambda app: replica)
        dispatch = Dispatch(controller.handle(), timeout, **options)  # type: ignore[arg-type]
        made.append(dispatch)
        async with asyncio.timeout(5):
            while dispatch.ready():
                await asyncio.sleep(0)
        return dispatch

    yield build
    for dispatch in made:
        dispatch._syncing.cancel()


async def streamed(dispatch: Dispatch, model: str = "a") -> list[Any]:
    return [item async for item in dispatch.stream(model, "talk", object())]


def talking(*items: Any) -> Handle:
    """A replica whose stream yields the items; an exception among them is raised."""

    async def generate() -> AsyncIterator[Any]:
        for item in items:
            if isinstance(item, BaseException):
                raise item
            yield item

    return Handle(talk=lambda _: Response(generate()))


async def test_not_ready_before_the_first_news() -> None:
    dispatch = Dispatch(PaperController(card("a")).handle(), 5)  # type: ignore[arg-type]
    assert dispatch.ready()
    with pytest.raises(NotReady):
        dispatch.resolve("a", Task.CHAT)
    dispatch._syncing.cancel()


async def test_resolve(start: Any) -> None:
    controller = PaperController(
        card("zed"),
        card("loose.gguf", loose=True),
        card("gpt-4", alias_of="zed"),
        card("off", disabled=True),
        ModelCard("embedder", [Task.EMBEDDING], 0, "x"),
    )
    dispatch = await start(controller)
    assert dispatch.resolve("gpt-4", Task.CHAT).name == "zed"
    assert dispatch.resolve(None, Task.CHAT).name == "zed", "configured models go before loose files"
    for name, error in {"nope": ModelNotFound, "off": ModelDisabled, "embedder": InvalidRequest}.items():
        with pytest.raises(error) as caught:
            dispatch.resolve(name, Task.CHAT)
        assert caught.value.param == "model"


async def test_a_ready_model_is_called_without_asking_the_controller(start: Any) -> None:
    controller = PaperController(card("a"))
    controller.set("a", State.READY)
    dispatch = await start(controller, talking(1, 2, 3))
    assert await streamed(dispatch) == [1, 2, 3]
    assert controller.loads == []


async def test_a_cold_model_is_loaded_and_waited_for(start: Any) -> None:
    controller = PaperController(card("a"))
    dispatch = await start(controller, talking("x"))
    controller.on_load = lambda name: controller.set(name, State.LOADING)
    waiting = asyncio.create_task(streamed(dispatch))
    async with asyncio.timeout(5):
        while not controller.loads:
            await asyncio.sleep(0)
    assert not waiting.done()
    controller.set("a", State.READY)
    assert await waiting == ["x"]
    assert controller.loads == ["a"]


async def test_a_failed_load_answers_everyone_who_waits_with_the_engines_words(start: Any) -> None:
    controller = PaperController(card("a"))
    dispatch = await start(controller)
    controller.on_load = lambda name: controller.set(
        name, State.FAILED, error=ModelLoadFailed("bad magic"), until=time.time() + 60
    )
    results = await asyncio.gather(*(streamed(dispatch) for _ in range(5)), return_exceptions=True)
    for error in results:
        assert isinstance(error, ModelLoadFailed) and "bad magic" in error.message
        assert error.retry_after is not None and 50 < error.retry_after <= 60


async def test_after_the_cool_down_a_request_tries_again(start: Any) -> None:
    controller = PaperController(card("a"))
    controller.set("a", State.FAILED, error=ModelLoadFailed("x"), until=time.time() - 1)
    dispatch = await start(controller, talking("again"))
    controller.on_load = lambda name: controller.set(name, State.READY)
    assert await streamed(dispatch) == ["again"]


async def test_removing_a_model_answers_who_waits_for_it_and_who_runs_on_it(start: Any) -> None:
    controller = PaperController(card("a"), card("b"))

    async def endless() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    response = Response(endless())
    controller.set("a", State.READY)
    controller.set("b", State.LOADING)
    dispatch = await start(controller, Handle(talk=lambda _: response))
    running = dispatch.stream("a", "talk", object())
    assert await anext(running) == 1
    waiting = asyncio.create_task(streamed(dispatch, "b"))
    stuck = asyncio.create_task(anext(running))
    await asyncio.sleep(0)
    controller.cards = []
    controller.set("a", State.ABSENT)
    controller.set("b", State.ABSENT)
    with pytest.raises(ModelUnloaded):
        await stuck
    with pytest.raises(ModelNotFound):
        await waiting
    assert response.cancelled


async def test_a_draining_model_is_waited_for_and_loaded_again(start: Any) -> None:
    controller = PaperController(card("a"))
    controller.set("a", State.DRAINING)
    dispatch = await start(controller, talking("back"))
    waiting = asyncio.create_task(streamed(dispatch))
    controller.on_load = lambda name: controller.set(name, State.READY)
    controller.set("a", State.ABSENT)
    assert await waiting == ["back"]


async def test_the_deadline_ends_every_wait(start: Any) -> None:
    async def silent() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 0

    controller = PaperController(card("cold"), card("a"))
    controller.set("a", State.READY)
    response = Response(silent())
    dispatch = await start(controller, Handle(talk=lambda _: response), timeout=0.1)
    for model in ("cold", "a"):
        with pytest.raises(DeadlineExceeded):
            await streamed(dispatch, model)
    assert response.cancelled


async def test_closing_the_stream_cancels_the_replicas_work(start: Any) -> None:
    async def endless() -> AsyncIterator[int]:
        while True:
            yield 1

    controller = PaperController(card("a"))
    controller.set("a", State.READY)
    response = Response(endless())
    dispatch = await start(controller, Handle(talk=lambda _: response))
    stream = dispatch.stream("a", "talk", object())
    await anext(stream)
    assert dispatch._models["a"].in_flight == 1
    await stream.aclose()
    assert response.cancelled and dispatch._models["a"].in_flight == 0


async def test_in_flight_and_last_use_are_reported(start: Any) -> None:
    controller = PaperController(card("a"))
    controller.set("a", State.READY)
    dispatch = await start(controller, talking(1, 2))
    stream = dispatch.stream("a", "talk", object())
    await anext(stream)

    async def reported(in_flight: int) -> None:
        async with asyncio.timeout(5):
            while not (uses := controller.reports[-1].in_use.get("a")) or uses.in_flight != in_flight:
                await asyncio.sleep(0.01)

    await reported(1)
    await stream.aclose()
    await reported(0)
    assert time.time() - controller.reports[-1].in_use["a"].last_used < 5


def wrapped(cause: Exception) -> Exception:
    """As Ray delivers a replica's exception."""
    return RayTaskError("talk", "traceback…", cause).as_instanceof_cause()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (wrapped(ContextLengthExceeded("8 tokens, 9 tokens")), ContextLengthExceeded),
        (wrapped(EngineError("boom")), EngineError),
        (BackPressureError(5, 5), Overloaded),
        (wrapped(ValueError("a bug")), ValueError),
    ],
)
async def test_errors_of_replicas_and_of_serve_come_as_ours(
    start: Any, raised: Exception, expected: type[Exception]
) -> None:
    controller = PaperController(card("a"))
    controller.set("a", State.READY)
    with pytest.raises(expected) as first:
        await streamed(await start(controller, talking(raised)))
    with pytest.raises(expected):
        await streamed(await start(controller, talking("text", raised)))
    if issubclass(expected, MantaError):
        assert "Traceback" not in str(first.value) and "traceback" not in str(first.value)


async def test_a_handle_that_has_not_heard_of_the_new_deployment_is_tried_again(start: Any) -> None:
    controller = PaperController(card("a"))
    controller.set("a", State.READY)
    answers: list[Any] = [GONE, GONE, "there"]

    def talk(_: object) -> Response:
        async def one() -> AsyncIterator[Any]:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            yield answer

        return Response(one())

    assert await streamed(await start(controller, Handle(talk=talk))) == ["there"]


async def test_a_unary_call_returns_and_is_cancelled_at_the_deadline(start: Any) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async def answer() -> str:
        return "42"

    controller = PaperController(card("a"))
    controller.set("a", State.READY)
    hanging = Unary(never)
    replica = Handle(ask=lambda _: Unary(answer), hang=lambda _: hanging)
    dispatch = await start(controller, replica, timeout=0.2)
    assert await dispatch.call("a", "ask", object()) == "42"
    with pytest.raises(DeadlineExceeded):
        await dispatch.call("a", "hang", object())
    assert hanging.cancelled


async def test_an_error_instance_is_not_shared_between_requests(start: Any) -> None:
    controller = PaperController(card("a"))
    controller.set("a", State.FAILED, error=ModelLoadFailed("x"), until=time.time() + 60)
    dispatch = await start(controller)
    errors = await asyncio.gather(streamed(dispatch), streamed(dispatch), return_exceptions=True)
    assert errors[0] is not errors[1]


async def test_a_silent_controller_stops_nothing_that_was_ready(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = PaperController(card("a"))
    controller.set("a", State.READY)
    dispatch = await start(controller, talking("on"))

    async def broken(_: Report) -> Update:
        raise ConnectionError("controller is gone")

    monkeypatch.setattr(controller, "sync", broken)
    monkeypatch.setitem(dispatch._controller._methods, "sync", broken)  # type: ignore[arg-type]
    assert await streamed(dispatch) == ["on"]


class Options(Handle):
    """Notes what the handle was told."""

    def __init__(self, seen: list[dict[str, Any]], **methods: Callable[..., Any]) -> None:
        super().__init__(**methods)
        self._seen = seen

    def options(self, **options: Any) -> "Options":
        self._seen.append(options)
        return self


async def test_large_requests_go_by_reference_and_are_stored_once(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[object] = []
    monkeypatch.setattr(module.ray, "put", lambda value: stored.append(value) or "reference")
    seen: list[dict[str, Any]] = []
    deaths = [ActorDiedError()]

    def ask(argument: object) -> Unary:
        async def answer() -> object:
            if deaths:
                raise deaths.pop()
            return argument

        return Unary(answer)

    def talk(argument: object) -> Response:
        async def items() -> AsyncIterator[object]:
            yield argument

        return Response(items())

    controller = PaperController(card("a"))
    controller.set("a", State.READY)
    dispatch = await start(controller, Options(seen, ask=ask, talk=talk))
    assert await dispatch.call("a", "ask", "request", large=True) == "reference"
    assert stored == ["request"], "the second try finds it there"
    assert [item async for item in dispatch.stream("a", "talk", "other", large=True)] == ["reference"]
    assert stored == ["request", "other"]
    assert all(options["_by_reference"] for options in seen)
    seen.clear()
    assert await streamed(dispatch) != ["reference"]
    assert not any("_by_reference" in options for options in seen)
    assert len(stored) == 2


async def test_an_error_keeps_no_reference(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it lives on, in a cycle of Ray's, say, the object store would have to as well."""

    class Reference:
        pass

    references: list[weakref.ref[Reference]] = []

    def put(_: object) -> Reference:
        reference = Reference()
        references.append(weakref.ref(reference))
        return reference

    async def fail() -> None:
        raise EngineError("boom")

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise EngineError("boom")

    monkeypatch.setattr(module.ray, "put", put)
    controller = PaperController(card("a"))
    controller.set("a", State.READY)
    dispatch = await start(controller, Handle(ask=lambda _: Unary(fail), talk=lambda _: Response(broken())))
    gc.disable()
    try:
        with pytest.raises(EngineError) as unary:
            await dispatch.call("a", "ask", object(), large=True)
        with pytest.raises(EngineError) as stream:
            [item async for item in dispatch.stream("a", "talk", object(), large=True)]
        # The thread that stored it may still be about to return.
        await until(lambda: [reference() for reference in references] == [None, None])
    finally:
        gc.enable()
    assert unary.tb and stream.tb, "both errors live on"


async def test_who_adds_to_reports_hears_of_those_that_arrived(start: Any) -> None:
    controller = PaperController(card("a"))
    added, arrived = list[Report](), list[Report]()

    def add(report: Report) -> Callable[[], None]:
        added.append(report)
        return lambda: arrived.append(report)

    sync = controller.sync

    async def lossy(report: Report) -> Update:
        if len(added) == 2:
            raise RuntimeError("lost on its way")
        return await sync(report)

    controller.sync = lossy  # type: ignore[method-assign]
    await start(controller, additions=(add, lambda _: None))
    await until(lambda: len(arrived) >= 2)
    assert arrived[:2] == [added[0], added[2]]
