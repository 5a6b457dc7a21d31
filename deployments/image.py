"""Image generation as a deployment: prompts and encoded images in, encoded images out."""

import asyncio
import math
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.backends.base import ImageEvent, ImageRequest, ImageResult, Painter, Picture
from deployments.config import ModelConfig
from deployments.errors import InvalidRequest, Overloaded, UnsupportedParameter
from deployments.image_options import ImageOptions
from deployments.metrics import QUEUE_SECONDS
from deployments.painting import Order, Studio

if TYPE_CHECKING:
    from deployments.image_codec import Pixels, Source

DECODED_AT_ONCE = 2
"""Images of clients; each may take 200 MB until it has been resized."""
SEEDS = 2**31
"""Random ones are below; a client may give any that torch takes."""
LARGEST_SEED = 2**63 - 1


class ImageModel:
    """Serves one painter. The unary answer is the stream, collected."""

    def __init__(self, engine: Painter, config: ModelConfig, models_path: Path) -> None:
        self.engine = engine
        self._config = config
        self._options = ImageOptions.of(config)
        self._studio = Studio(engine)
        self._waited = QUEUE_SECONDS.labels(config.name).observe
        self._decoding = asyncio.Semaphore(DECODED_AT_ONCE)
        self._max_queued = -1 if config.max_queued_requests is None else config.max_queued_requests

    async def paint(self, request: ImageRequest) -> ImageResult:
        pictures = await self._pictures(request)
        images: dict[int, bytes] = {}
        async with aclosing(self._painted(request, pictures, progress=False)) as events:
            async for event in events:
                images |= event.finished
        first = pictures[0]
        return ImageResult([images[index] for index in sorted(images)], first.width, first.height, first.seed)

    async def stream_paint(self, request: ImageRequest) -> AsyncGenerator[ImageEvent, None]:
        """An event after each step. Closing it ends the painting at the next step.

        Raises InvalidRequest, UnsupportedParameter, Overloaded, EngineError.
        """
        async with aclosing(self._painted(request, await self._pictures(request), progress=True)) as events:
            async for event in events:
                yield event

    def stats(self) -> dict[str, float]:
        return {**self.engine.stats(), **self._studio.stats()}

    def close(self) -> None:
        """Idempotent."""
        self._studio.close()
        self.engine.close()

    async def _painted(
        self, request: ImageRequest, pictures: list[Picture], *, progress: bool
    ) -> AsyncGenerator[ImageEvent, None]:
        order = Order(pictures, request.tenant, request.partial_images, progress, waited=self._waited)
        done = [0] * len(pictures)
        steps = [picture.steps for picture in pictures]
        async with aclosing(self._studio.paint(order)) as updates:
            async for update in updates:
                if update.painted is None:
                    steps[update.index] = update.steps  # fewer than asked for where an image is painted over
                done[update.index] = min(update.step, steps[update.index])
                event = ImageEvent(sum(done), sum(steps))
                if update.preview is not None:
                    event.partials[update.index] = await self._encoded(update.preview, request)
                if update.painted is not None:
                    event.finished[update.index] = await self._encoded(update.painted, request)
                yield event

    async def _encoded(self, pixels: "Pixels", request: ImageRequest) -> bytes:
        from deployments.image_codec import encode  # the replicas of other models do without Pillow

        return await asyncio.to_thread(encode, pixels, request.format, request.compression)

    async def _pictures(self, request: ImageRequest) -> list[Picture]:
        """What the request asks for, the config's and the model's own values filled in."""
        self._check(request)
        if 0 <= self._max_queued <= self._studio.waiting_orders:
            raise Overloaded(f"{self._max_queued} requests already wait for this model").after(1)
        source, mask = await self._decoded(request)
        width, height = self._size(request, source)
        steps = self._steps(request)
        self._check_work(request, width * height, steps)
        image, changeable = await asyncio.to_thread(_fitted, source, mask, width, height, request.mask_is_alpha)
        negative = request.negative_prompt
        picture = Picture(
            prompt=request.prompt,
            negative_prompt=(self._config.parameters.negative_prompt or "") if negative is None else negative,
            seed=self._seed(request),
            width=width,
            height=height,
            steps=steps,
            guidance=self._guidance(request),
            image=image,
            mask=changeable,
            strength=request.strength,
        )
        return [replace(picture, seed=picture.seed + number) for number in range(request.n)]

    def _check(self, request: ImageRequest) -> None:
        """What can be told before anything is decoded."""
        most = self._options.max_images
        if request.n < 1 or (most is not None and request.n > most):
            limit = f"from 1 to {most}" if most else "at least 1"
            raise InvalidRequest(f"n must be {limit} for this model, not {request.n}").at("n")
        if request.partial_images and not self.engine.previews:
            raise UnsupportedParameter("this model can't show images before they are done").at("partial_images")
        if request.image is None:
            for name, value in (("mask", request.mask), ("strength", request.strength)):
                if value is not None:
                    raise InvalidRequest(f"{name} is for an image to start from, and there is none").at(name)
            return
        if request.mask and not self.engine.inpaints:
            raise UnsupportedParameter("this model can't change a part of an image").at("mask")
        if not request.mask and not self.engine.paints_over:
            raise UnsupportedParameter("this model can't start from an image").at("image")
        if request.strength is not None and not 0 < request.strength <= 1:
            raise InvalidRequest(f"strength must be above 0 and at most 1, not {request.strength:g}").at("strength")

    async def _decoded(self, request: ImageRequest) -> "tuple[Source | None, Source | None]":
        """Image and mask, each None where there is none."""
        if request.image is None:
            return None, None
        from deployments.image_codec import decode  # as above

        async with self._decoding:
            source = await asyncio.to_thread(decode, request.image, "image")
            mask = await asyncio.to_thread(decode, request.mask, "mask") if request.mask else None
        if mask and mask.size != source.size:
            raise InvalidRequest(
                "the mask must be as large as the image: {} x {} pixels, not {} x {}".format(*source.size, *mask.size)
            ).at("mask")
        return source, mask

    def _size(self, request: ImageRequest, source: "Source | None") -> tuple[int, int]:
        """As asked for; or as the image to start from, no larger than what the model was trained for; or as that."""
        multiple = self.engine.multiple
        if request.width is None and request.height is None and source:
            width, height = source.size
            scale = min(1.0, math.sqrt(self.engine.default_width * self.engine.default_height / (width * height)))
            return _rounded(width * scale, multiple), _rounded(height * scale, multiple)
        width = self.engine.default_width if request.width is None else request.width
        height = self.engine.default_height if request.height is None else request.height
        if width < 1 or height < 1 or width % multiple or height % multiple:
            raise InvalidRequest(
                f"width and height must be multiples of {multiple} for this model, not {width}x{height}"
            ).at("size")
        return width, height

    def _steps(self, request: ImageRequest) -> int:
        steps = request.steps or self._config.step or self.engine.default_steps
        if request.steps is not None and not 1 <= request.steps <= self._options.max_steps:
            raise InvalidRequest(
                f"step must be from 1 to {self._options.max_steps} for this model, not {request.steps}"
            ).at("step")
        return steps

    def _check_work(self, request: ImageRequest, pixels: int, steps: int) -> None:
        """By the model's limits and by the server's, which knows no model's own size and steps."""
        work, words = request.n * pixels * steps, "width x height x steps x images"
        for limit, asked, param, what, whose in (
            (self._options.max_pixels, pixels, "size", "width x height", "for this model"),
            (self._options.max_work, work, "n", words, "for this model"),
            (request.max_work or None, work, "n", words, "on this server (setting image_max_work)"),
        ):
            if limit is not None and asked > limit:
                raise InvalidRequest(f"{what} may be {limit:,} {whose}, not {asked:,}").at(param)

    def _guidance(self, request: ImageRequest) -> float:
        # The block's field is LocalAI's older place for it.
        given = (request.guidance, self._config.cfg_scale, self._config.diffusers.cfg_scale)
        guidance = next((value for value in given if value is not None), None)
        if guidance is None:
            return self.engine.default_guidance
        if not 0 <= guidance < math.inf:
            raise InvalidRequest(f"cfg_scale must be 0 or more, not {guidance:g}").at("cfg_scale")
        return guidance

    def _seed(self, request: ImageRequest) -> int:
        """Of the first image. Less than 0 is LocalAI's "a random one"."""
        seed = self._config.parameters.seed if request.seed is None else request.seed
        if seed is None or seed < 0:
            return random.randrange(SEEDS)  # noqa: S311 – noise, not a secret
        if seed + request.n - 1 > LARGEST_SEED:
            raise InvalidRequest(f"seed must be at most {LARGEST_SEED - request.n + 1}").at("seed")
        return seed


def _rounded(side: float, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple


def _fitted(
    source: "Source | None", mask: "Source | None", width: int, height: int, mask_is_alpha: bool
) -> "tuple[Pixels | None, Pixels | None]":
    """Image and mask in the size of the picture."""
    return (
        source.pixels(width, height) if source else None,
        mask.mask(width, height, is_alpha=mask_is_alpha) if mask else None,
    )
