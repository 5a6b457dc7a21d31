"""Images: the requests, and the objects that answer them."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from api.schemas.common import LARGEST_COUNT, Integer, StringOrList, WireModel
from api.schemas.ignored import report_ignored
from api.settings import Settings
from deployments.backends.base import ImageRequest
from deployments.errors import InvalidRequest, UnsupportedParameter

LARGEST_SEED = 2**63 - 1
"""Of torch's generators, with room for the seeds of further images."""

QUALITIES = ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd")
"""OpenAI's words. Which of them a model has is not said anywhere: they change nothing. A number is LocalAI's: steps."""

ImageFormat = Literal["png", "webp", "jpeg"]
Background = Literal["transparent", "opaque", "auto"]

_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})", re.IGNORECASE)


# ---- types -----------------------------------------------------------------------------------------------------------


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _quality(text: str) -> str:
    if text and text not in QUALITIES and not (text.isascii() and text.isdigit()):
        raise ValueError(f"expected one of {', '.join(QUALITIES)}, or a number of steps")
    return text


def _size(text: str) -> str:
    if text not in ("", "auto") and not _SIZE.fullmatch(text):
        raise ValueError("expected width and height in pixels, such as 512x512, or auto")
    return text


def _prompts(prompts: list[str]) -> list[str]:
    if not prompts or not all(map(str.strip, prompts)):
        raise ValueError("expected a text that is not empty, or an array of such")
    return prompts


_PROMPT = {"type": "string", "minLength": 1}
Prompts = Annotated[
    StringOrList,
    AfterValidator(_prompts),
    WithJsonSchema({"anyOf": [_PROMPT, {"type": "array", "minItems": 1, "items": _PROMPT}]}),
]


# ---- requests --------------------------------------------------------------------------------------------------------


class ImageOptions(WireModel):
    """What all image requests have in common. What is null or left out is as the model's config says."""

    model: str | None = None
    """Left out: the first model that can do it."""
    n: Annotated[Integer | None, Field(ge=1)] = None
    """Images, for each prompt."""
    size: Annotated[str, AfterValidator(_size)] | None = None
    """`WIDTHxHEIGHT`; `auto` and left out: the size that the model was trained for."""
    response_format: Literal["url", "b64_json", ""] | None = None
    """`url` when left out; the file behind it is removed after a while. A stream carries `b64_json`."""
    quality: Annotated[str, BeforeValidator(_as_text), AfterValidator(_quality)] | None = None
    """A number is LocalAI's for `step`; OpenAI's words change nothing."""
    background: Background | None = None
    """No model here paints `transparent` ones."""
    output_format: ImageFormat | None = None
    """`png` when left out."""
    output_compression: Annotated[Integer | None, Field(ge=0, le=100)] = None
    """Of webp and jpeg; 100 is the best picture."""
    stream: bool | None = None
    partial_images: Annotated[Integer | None, Field(ge=0, le=3)] = None
    """Previews of each image that a stream carries."""

    # LocalAI's, and what its backends know
    step: Annotated[Integer | None, Field(ge=1, le=LARGEST_COUNT)] = None
    """Denoising steps."""
    seed: Annotated[Integer | None, Field(ge=-(2**63), le=LARGEST_SEED)] = None
    """Of the first image, the next one's is one more. Negative: a random one."""
    negative_prompt: str | None = None
    """What should not be seen. Wins over the part of the prompt behind a `|`."""
    cfg_scale: Annotated[float | None, Field(ge=0, le=1000)] = None
    """How closely the prompt is followed."""
    strength: Annotated[float | None, Field(gt=0, le=1)] = None
    """How far from a given image the result may be."""
    mode: Integer | None = None
    """Accepted as LocalAI does; changes nothing here either."""


class ImageGenerateParams(ImageOptions):
    prompt: Prompts
    """With `|`: what should be seen, then what should not."""
    file: Annotated[str | None, Field(validation_alias=AliasChoices("file", "image"))] = None
    """An image to start from: its URL, a data URL, or base64."""
    files: list[str] | None = None
    ref_images: list[str] | None = None
    """More than one image can't be started from."""


class ImageForm(ImageOptions):
    """The fields of a form, all of which come as text, but for its files."""

    model_config = ConfigDict(strict=False)

    @property
    def prompts(self) -> Sequence[str]:
        return ("",)


class ImageVariationForm(ImageForm):
    """A variation has no prompt."""


class ImageEditForm(ImageForm):
    prompt: Prompts
    """With `|`: what should be seen, then what should not."""

    @property
    def prompts(self) -> Sequence[str]:
        return self.prompt


# ---- answers ---------------------------------------------------------------------------------------------------------


class Image(BaseModel):
    """One of `url` and `b64_json`."""

    url: str | None = None
    b64_json: str | None = None
    index: int
    seed: int
    """Another request with it gets the same image."""


class ImageTokensDetails(BaseModel):
    text_tokens: int
    image_tokens: int


class ImageUsage(BaseModel):
    """All zero: diffusion models are not counted in tokens. OpenAI's names and LocalAI's."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: ImageTokensDetails
    output_tokens_details: ImageTokensDetails
    prompt_tokens: int
    completion_tokens: int


class ImagesResponse(BaseModel):
    created: int
    id: str
    data: list[Image]
    background: Literal["opaque"]
    output_format: ImageFormat
    size: str
    usage: ImageUsage


# ---- to the replica's types ------------------------------------------------------------------------------------------


def to_image_requests(
    wire: ImageOptions, prompts: Sequence[str], settings: Settings, *, tenant: str, request_id: str
) -> list[ImageRequest]:
    """One for each prompt. Raises InvalidRequest for what the settings don't allow, naming the setting."""
    report_ignored(wire.model_extra or ())
    _check_supported(wire)
    width, height = _width_and_height(wire)
    steps = wire.step or (int(wire.quality) if wire.quality and wire.quality.isdigit() else None) or None
    n = wire.n or 1
    _check_limits(settings, images=n * len(prompts), width=width, height=height, steps=steps)
    requests = []
    for text in prompts:
        prompt, _, rest = text.partition("|")
        requests.append(
            ImageRequest(
                prompt=prompt.strip(),
                negative_prompt=rest.partition("|")[0].strip() or None
                if wire.negative_prompt is None
                else wire.negative_prompt,
                n=n,
                width=width,
                height=height,
                steps=steps,
                guidance=wire.cfg_scale,
                seed=wire.seed,
                strength=wire.strength,
                format=wire.output_format or "png",
                compression=wire.output_compression,
                partial_images=(wire.partial_images or 0) if wire.stream else 0,
                max_work=settings.image_max_work // len(prompts),
                tenant=tenant,
                request_id=request_id,
            )
        )
    return requests


def _check_supported(wire: ImageOptions) -> None:
    if wire.background == "transparent":
        raise UnsupportedParameter("Images with a transparent background can't be painted here.").at("background")
    if wire.stream and wire.response_format == "url":
        raise UnsupportedParameter("A stream carries images as b64_json, not as URLs.").at("response_format")
    if isinstance(wire, ImageGenerateParams):
        for name in ("files", "ref_images"):
            if getattr(wire, name):
                raise UnsupportedParameter(f"'{name}' is not supported: send one image, as 'file'.").at(name)


def _width_and_height(wire: ImageOptions) -> tuple[int, int] | tuple[None, None]:
    match = _SIZE.fullmatch(wire.size or "")
    if not match:
        return None, None
    width, height = map(int, match.groups())
    if not width * height:
        raise InvalidRequest(f"Invalid 'size': {wire.size}: an image has at least one pixel.").at("size")
    return width, height


def _check_limits(settings: Settings, *, images: int, width: int | None, height: int | None, steps: int | None) -> None:
    """As far as the request says what it wants: the replica, which knows the rest, checks the work once more."""
    pixels = (width or 0) * (height or 0)
    if pixels > settings.image_max_pixels:
        raise _over("size", f"{width}x{height}", "pixels", settings.image_max_pixels, "image_max_pixels")
    if images > settings.image_max_n:
        raise _over("n", f"{images} images", "images", settings.image_max_n, "image_max_n")
    if (steps or 0) > settings.image_max_steps:
        raise _over("step", f"{steps} steps", "steps", settings.image_max_steps, "image_max_steps")
    if (work := pixels * (steps or 1) * images) > settings.image_max_work:
        wanted = f"{work:,} pixels x steps x images"
        raise _over("size", wanted, "of them", settings.image_max_work, "image_max_work")


def _over(param: str, wanted: str, unit: str, limit: int, setting: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{param}': {wanted} are more than this server allows: {limit:,} {unit} (setting {setting})."
    ).at(param)
