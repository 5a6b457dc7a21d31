"""Text and images to images: their engine, and what crosses a handle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(slots=True)
class Picture:
    """One image to paint."""

    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance: float
    image: "NDArray[np.uint8] | None" = None
    """RGB, [height, width, 3]: what is changed. None: text to image."""
    mask: "NDArray[np.uint8] | None" = None
    """[height, width], 255 where `image` may be changed: inpainting."""
    strength: float | None = None
    """How far from `image` the result may be, 0 to 1."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the pipeline's call."""

    @property
    def group(self) -> tuple[Any, ...]:
        """Equal for pictures that can be denoised as one batch."""
        fixed = self.width, self.height, self.steps, self.guidance, self.strength, repr(sorted(self.options.items()))
        return (*fixed, self.image is not None, self.mask is not None, bool(self.negative_prompt))


class Painter(Protocol):
    """A loaded image pipeline."""

    default_width: int
    default_height: int
    default_steps: int
    default_guidance: float
    multiple: int
    """Width and height must be multiples of it."""
    paints_over: bool
    """It can start from a whole image."""
    inpaints: bool
    """It can change a part of an image. Some models can do that alone."""
    previews: bool
    """It can show a picture as it stands."""
    batch: int
    """Pictures of the default size that may be denoised together."""

    def paint(
        self,
        batch: Sequence[Picture],
        *,
        step: "Callable[[int, int, Callable[[int], NDArray[np.uint8]]], Sequence[bool]]",
    ) -> "list[NDArray[np.uint8] | None]":
        """RGB images [height, width, 3], in the order of the batch, whose pictures are of one `group`. Blocking.

        `step(done, steps, preview)` is called after each step and says for each picture whether it is still wanted:
        when none is, painting ends and all are None. `preview(i)` decodes picture i as it stands. A picture's seed
        alone decides its noise, whatever it is batched with. Raises EngineError, InvalidRequest.
        """
        ...

    def stats(self) -> dict[str, float]: ...

    def close(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class ImageRequest:
    """Text, or an image and text, to images. None: as the model's config says."""

    prompt: str
    negative_prompt: str | None = None
    n: int = 1
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    """Image i gets seed + i. None: a random one."""
    image: bytes | None = None
    """An encoded image to start from."""
    mask: bytes | None = None
    """An encoded image, transparent or white where `image` may be changed (`mask_is_alpha` says which)."""
    mask_is_alpha: bool = True
    strength: float | None = None
    format: Literal["png", "webp", "jpeg"] = "png"
    compression: int | None = None
    """0 to 100, of webp and jpeg: 100 is the best picture."""
    partial_images: int = 0
    """Previews per image that the stream should carry."""
    max_work: int = 0
    """Pixels × steps × n that the server allows, the model's own size and steps included; 0: no limit."""
    tenant: str = ""
    request_id: str = ""


@dataclass(slots=True)
class ImageEvent:
    """What there is to tell of the images being painted."""

    step: int
    """Denoising steps done, of all images of the request together."""
    steps: int
    partials: dict[int, bytes] = field(default_factory=dict)
    """Index of an image → its encoded preview."""
    finished: dict[int, bytes] = field(default_factory=dict)
    """Index of an image → the encoded image."""


@dataclass(slots=True)
class ImageResult:
    """Encoded images in order, and what they were painted with."""

    images: list[bytes]
    width: int
    height: int
    seed: int
    """Of the first."""
