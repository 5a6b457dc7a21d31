"""ImageModel on a painter that the test holds still: defaults, limits, batches, events."""

import asyncio
import io
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.backends.base import ImageEvent, ImageRequest, ImageResult, Picture
from deployments.config import ModelConfig
from deployments.config_blocks import Diffusers, Parameters
from deployments.errors import ConfigInvalid, EngineError, InvalidRequest, Overloaded, UnsupportedParameter
from deployments.image import ImageModel
from tests.unit.deployments.fake_painter import FakePainter
from tests.unit.waiting import until


def studio(batch: int = 4, **fields: Any) -> tuple[ImageModel, FakePainter]:
    painter = FakePainter(batch)
    return ImageModel(painter, ModelConfig(name="fake", **fields), Path()), painter


def ask(**fields: Any) -> ImageRequest:
    return ImageRequest(**{"prompt": "x", "seed": 1, **fields})


def grey(image: bytes) -> int:
    return int(np.asarray(Image.open(io.BytesIO(image)))[0, 0, 0])


def png(width: int = 32, height: int = 32, mode: str = "RGB", colour: Any = 0) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), colour).save(file, "PNG")
    return file.getvalue()


async def painted(model: ImageModel, painter: FakePainter, **fields: Any) -> Picture:
    """The one picture of a request, as the painter got it."""
    await model.paint(ask(**fields))
    return painter.batches[-1][0]


async def test_the_unary_answer_is_the_stream_collected() -> None:
    model, _ = studio()
    result = await model.paint(ask(n=3, seed=7, width=40, height=24))
    assert [grey(image) for image in result.images] == [7, 8, 9]
    assert (result.width, result.height, result.seed) == (40, 24, 7)
    streamed: dict[int, bytes] = {}
    async with aclosing(model.stream_paint(ask(n=3, seed=7, width=40, height=24))) as events:
        async for event in events:
            streamed |= event.finished
    assert [streamed[i] for i in range(3)] == result.images


async def test_what_the_request_leaves_open_is_as_the_config_says() -> None:
    config = {
        "step": 3,
        "cfg_scale": 2.5,
        "parameters": Parameters(negative_prompt="ugly", seed=9),
        "diffusers": Diffusers(cfg_scale=9),
    }
    picture = await painted(*studio(**config), seed=None)
    assert (picture.steps, picture.guidance, picture.negative_prompt, picture.seed) == (3, 2.5, "ugly", 9)
    picture = await painted(*studio(**config), steps=2, guidance=0.0, negative_prompt="", seed=4)
    assert (picture.steps, picture.guidance, picture.negative_prompt, picture.seed) == (2, 0.0, "", 4)


async def test_what_the_config_leaves_open_is_as_the_model_says() -> None:
    picture = await painted(*studio())
    assert (picture.width, picture.height, picture.steps, picture.guidance) == (32, 32, 4, 7.5)
    assert (await painted(*studio(diffusers=Diffusers(cfg_scale=9)))).guidance == 9


async def test_seeds_that_nobody_gives_differ() -> None:
    model, _ = studio()
    results = [await model.paint(ask(seed=seed)) for seed in (None, None, -1)]
    assert len({result.seed for result in results}) == 3


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"n": 0}, "n", "at least 1"),
        ({"width": 33}, "size", "multiples of 8 for this model, not 33x32"),
        ({"height": 0}, "size", "multiples of 8"),
        ({"width": -8, "height": -8}, "size", "multiples of 8"),
        ({"steps": 0}, "step", "from 1 to 1000"),
        ({"steps": 1001}, "step", "from 1 to 1000"),
        ({"guidance": -1.0}, "cfg_scale", "0 or more"),
        ({"guidance": float("nan")}, "cfg_scale", "0 or more"),
        ({"seed": 2**63 - 1, "n": 2}, "seed", "at most"),
        ({"mask": png()}, "mask", "there is none"),
        ({"strength": 0.5}, "strength", "there is none"),
        ({"image": png(), "strength": 0.0}, "strength", "above 0"),
        ({"image": png(), "strength": 1.1}, "strength", "at most 1"),
        ({"image": b"nonsense"}, "image", "not an image"),
        ({"image": b""}, "image", "not an image"),
        ({"image": png(), "mask": b"nonsense"}, "mask", "not an image"),
        ({"image": png(), "mask": png(16, 32, "RGBA")}, "mask", "32 x 32 pixels, not 16 x 32"),
        ({"image": png(), "mask": png()}, "mask", "no transparent pixels"),
    ],
)
async def test_bad_requests_are_refused_with_the_field_at_fault(fields: dict[str, Any], param: str, words: str) -> None:
    model, painter = studio()
    with pytest.raises(InvalidRequest, match=words) as refused:
        await model.paint(ask(**fields))
    assert refused.value.param == param
    assert not painter.batches


@pytest.mark.parametrize(
    ("option", "fields", "param"),
    [
        ("max_pixels:1024", {"width": 40}, "size"),
        ("max_steps:4", {"steps": 5}, "step"),
        ("max_images:2", {"n": 3}, "n"),
        ("max_work:8192", {"n": 3}, "n"),
    ],
)
async def test_a_model_has_limits_of_its_own(option: str, fields: dict[str, Any], param: str) -> None:
    model, painter = studio(options=[option])
    await model.paint(ask(n=2))
    with pytest.raises(InvalidRequest) as refused:
        await model.paint(ask(**fields))
    assert refused.value.param == param
    assert len(painter.batches) == 1


async def test_the_server_s_limit_counts_what_the_request_leaves_to_the_model() -> None:
    model, painter = studio()
    done = await model.paint(ask(n=2))
    work = 2 * done.width * done.height * painter.default_steps
    await model.paint(ask(n=2, steps=None, width=None, height=None, max_work=work))
    with pytest.raises(InvalidRequest, match="image_max_work"):
        await model.paint(ask(n=2, steps=None, width=None, height=None, max_work=work - 1))


@pytest.mark.parametrize("option", ["max_pixel:4", "max_pixels:many", "max_images:0", "cpu_offload:perhaps"])
def test_options_are_strict(option: str) -> None:
    with pytest.raises(ConfigInvalid, match="fake: options"):
        studio(options=[option])


async def test_what_a_model_cannot_do_is_said() -> None:
    model, painter = studio()
    painter.paints_over = painter.inpaints = painter.previews = False
    mask = png(mode="RGBA")
    for fields, param in (
        ({"image": png()}, "image"),
        ({"image": png(), "mask": mask}, "mask"),
        ({"partial_images": 1}, "partial_images"),
    ):
        with pytest.raises(UnsupportedParameter) as refused:
            await model.paint(ask(**fields))
        assert refused.value.param == param


async def test_a_model_that_inpaints_alone_takes_an_image_with_a_mask() -> None:
    model, painter = studio()
    painter.paints_over = False
    assert (await painted(model, painter, image=png(), mask=png(mode="RGBA"))).mask is not None
    with pytest.raises(UnsupportedParameter, match="start from an image"):
        await model.paint(ask(image=png()))


@pytest.mark.parametrize(
    ("size", "expected"), [((16, 16), (16, 16)), ((20, 30), (16, 32)), ((400, 100), (64, 16)), ((1, 3), (8, 8))]
)
async def test_a_picture_over_an_image_is_as_large_unless_that_is_too_large(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    picture = await painted(*studio(), image=png(*size))
    assert (picture.width, picture.height) == expected
    assert picture.image is not None
    assert picture.image.shape == (expected[1], expected[0], 3)


async def test_an_image_is_resized_to_the_size_that_is_asked_for() -> None:
    picture = await painted(*studio(), image=png(32, 32, colour=(9, 8, 7)), width=16, height=40)
    assert picture.image is not None
    assert picture.image.shape == (40, 16, 3)
    assert picture.image[0, 0].tolist() == [9, 8, 7]
    assert picture.mask is None


@pytest.mark.parametrize(("colour", "is_alpha"), [((0, 0, 0, 0), True), ((255, 255, 255, 255), False)])
async def test_masks_are_transparent_or_white_where_the_image_may_change(colour: Any, is_alpha: bool) -> None:
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 255))
    image.paste(colour, (0, 0, 16, 32))
    file = io.BytesIO()
    image.save(file, "PNG")
    picture = await painted(*studio(), image=png(), mask=file.getvalue(), mask_is_alpha=is_alpha)
    assert picture.mask is not None
    assert picture.mask[:, :16].min() == 255
    assert picture.mask[:, 16:].max() == 0


async def test_events_tell_steps_and_previews() -> None:
    model, _ = studio()
    events: list[ImageEvent] = [
        event async for event in model.stream_paint(ask(n=2, seed=100, steps=10, partial_images=3))
    ]
    assert [event.step for event in events] == sorted(event.step for event in events)
    assert {event.steps for event in events} == {20}
    assert events[-1].step == 20
    for index in (0, 1):
        shown = [event.partials[index] for event in events if index in event.partials]
        assert [grey(image) for image in shown] == [(100 + index) // 2] * 3
        assert sum(index in event.finished for event in events) == 1


async def test_steps_that_the_strength_saves_are_not_counted() -> None:
    model, _ = studio()
    events = [event async for event in model.stream_paint(ask(image=png(), strength=0.5, steps=10))]
    assert [(event.step, event.steps) for event in events] == [(done, 5) for done in (1, 2, 3, 4, 5, 5)]


@pytest.mark.parametrize("file_format", ["png", "webp", "jpeg"])
async def test_images_are_of_the_format_that_is_asked_for(file_format: str) -> None:
    model, _ = studio()
    result = await model.paint(ask(format=file_format))
    assert Image.open(io.BytesIO(result.images[0])).format == file_format.upper()


async def test_a_full_queue_refuses_with_429() -> None:
    model, painter = studio(max_queued_requests=2)
    painter.may_run.clear()
    running = [asyncio.create_task(model.paint(ask()))]
    await until(lambda: painter.batches)
    running += [asyncio.create_task(model.paint(ask())) for _ in range(2)]
    await until(lambda: model.stats()["slots_busy"] == 3)
    with pytest.raises(Overloaded) as refused:
        await model.paint(ask())
    assert refused.value.retry_after
    painter.may_run.set()
    assert all(isinstance(result, ImageResult) for result in await asyncio.gather(*running))
    assert (await model.paint(ask())).images


async def test_a_reader_that_leaves_stops_the_painting() -> None:
    model, painter = studio()
    stream = model.stream_paint(ask(prompt="endless", n=6))
    await anext(stream)
    await stream.aclose()
    await until(lambda: not model.stats()["painting"])
    assert (model.stats()["slots_busy"], model.stats()["queued"]) == (0, 0)
    assert len(painter.batches) == 1


async def test_close_ends_everything() -> None:
    model, painter = studio()
    work = asyncio.create_task(model.paint(ask(prompt="endless")))
    await until(lambda: painter.steps)
    model.close()
    with pytest.raises(EngineError, match="unloaded"):
        await work
    assert painter.closed
    with pytest.raises(EngineError, match="unloaded"):
        await model.paint(ask())
    model.close()
