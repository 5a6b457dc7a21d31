"""Images over HTTP through HAProxy, ingress and handle, of the tiny real pipeline."""

import io
import struct
import zlib
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.serving import KEY, Server, eventually

pytest.importorskip("diffusers")
np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAME = "shapes"
BLUE, ORANGE = "a blue square on a white background", "an orange square on a white background"


@pytest.fixture(scope="module", autouse=True)
def _model(server: Server) -> Iterator[None]:
    folder = server.models_path / "tiny-sd-shapes"
    folder.symlink_to(FIXTURES / "tiny-sd-shapes")
    config = server.models_path / f"{NAME}.yaml"
    config.write_text(f"name: {NAME}\nbackend: diffusers\nstep: 10\nparameters: {{model: tiny-sd-shapes}}\n")
    with server.client() as client:
        assert client.post("/models/reload").status_code == 200
        eventually(lambda: NAME in {model["id"] for model in client.get("/v1/models").json()["data"]})
        yield
        config.unlink()
        folder.unlink()
        client.post("/models/reload")


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


def paint(client: openai.OpenAI, prompt: str, seed: int, **options: Any) -> list[Any]:
    """The images, as arrays [height, width, 3]."""
    answer = client.images.generate(
        model=NAME, prompt=prompt, response_format="b64_json", extra_body={"seed": seed}, **options
    )
    return [pixels(b64decode(image.b64_json or "")) for image in answer.data or ()]


def pixels(content: bytes) -> Any:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG of RGBA whose header says a size; its pixels need not be there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def encoded(image: Any, alpha: int = 255) -> bytes:
    """As a PNG whose pixels all have this alpha."""
    file = io.BytesIO()
    Image.fromarray(np.dstack([image, np.full(image.shape[:2], alpha)]).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def distance(image: Any, other: Any) -> float:
    return float(abs(image - other).mean())


def test_an_image_of_the_prompt(client: openai.OpenAI) -> None:
    """What colour it is, is a matter of the model's (tests/models); that two prompts differ, is one of ours."""
    (blue,), (orange,) = paint(client, BLUE, 3), paint(client, ORANGE, 3)
    assert blue.shape == (64, 64, 3)
    assert blue[..., 2].mean() - blue[..., 0].mean() > orange[..., 2].mean() - orange[..., 0].mean()
    assert blue[:4].mean() > 150  # the border


def test_seeds(client: openai.OpenAI) -> None:
    one, again, other = paint(client, BLUE, 3), paint(client, BLUE, 3), paint(client, BLUE, 4)
    assert (one[0] == again[0]).all()
    assert (one[0] != other[0]).any()
    both = paint(client, BLUE, 3, n=2)
    assert max(abs(both[0] - one[0]).max(), abs(both[1] - other[0]).max()) <= 2


def test_clients_at_the_same_time_get_their_own(client: openai.OpenAI) -> None:
    alone = [paint(client, prompt, seed)[0] for prompt in (BLUE, ORANGE) for seed in range(3)]
    with ThreadPoolExecutor(6) as pool:
        together = pool.map(lambda job: paint(client, *job)[0], [(p, s) for p in (BLUE, ORANGE) for s in range(3)])
    assert max(abs(a - b).max() for a, b in zip(alone, together, strict=True)) <= 2


def test_by_url(server: Server, client: openai.OpenAI) -> None:
    answer = client.images.generate(model=NAME, prompt=BLUE, extra_body={"seed": 3})
    assert answer.data and answer.data[0].url
    url = answer.data[0].url
    assert url.startswith(f"{server.url}/generated-images/")
    with server.client() as http:
        found = http.get(url)
        assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
        assert (pixels(found.content) == paint(client, BLUE, 3)[0]).all()
        assert http.head(url).headers["content-length"] == str(len(found.content))
        assert http.get(f"{server.url}/generated-images/none.png").json()["error"]["code"] == "image_not_found"
    assert httpx.get(url, trust_env=False).status_code == 401


def test_a_stream_with_previews(client: openai.OpenAI) -> None:
    stream = client.images.generate(
        model=NAME, prompt=BLUE, stream=True, partial_images=2, size="64x64", extra_body={"seed": 3}
    )
    events = list(stream)
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]  # type: ignore[union-attr]
    assert pixels(b64decode(events[0].b64_json)).shape == (64, 64, 3)
    assert abs(pixels(b64decode(events[-1].b64_json)) - paint(client, BLUE, 3)[0]).max() <= 2


def test_step_progress(server: Server) -> None:
    with server.client() as http:
        body = {"model": NAME, "prompt": BLUE, "stream": True}
        text = http.post("/v1/images/generations", json=body).text
    assert ": step 1 of 10\n\n" in text and ": step 9 of 10\n\n" in text


@pytest.mark.parametrize("route", ["edits", "inpainting"])
def test_masks_say_what_may_change(server: Server, client: openai.OpenAI, route: str) -> None:
    """All or nothing: the tiny model's decoder mixes what is far apart in the image."""
    (source,) = paint(client, BLUE, 3)
    masks = {
        "edits": {"keep": encoded(source, alpha=255), "free": encoded(source, alpha=0)},
        "inpainting": {"keep": encoded(np.zeros((64, 64, 3))), "free": encoded(np.full((64, 64, 3), 255))},
    }[route]
    fields = {"model": NAME, "prompt": "a circle on a black background", "seed": "1", "response_format": "b64_json"}
    far = {}
    with server.client() as http:
        for name, mask in masks.items():
            files = {"image": ("a.png", encoded(source)), "mask": ("m.png", mask)}
            answer = http.post(f"/v1/images/{route}", files=files, data={**fields, "strength": "1"}).json()
            far[name] = distance(pixels(b64decode(answer["data"][0]["b64_json"])), source)
    assert far["keep"] < 40 < far["free"]


def test_a_variation_is_like_its_image(server: Server, client: openai.OpenAI) -> None:
    (source,) = paint(client, BLUE, 3)
    fields = {"model": NAME, "seed": "1", "n": "2", "response_format": "b64_json"}
    far = []
    with server.client() as http:
        for strength in ("0.1", "1"):
            files = {"image": ("a.png", encoded(source))}
            answer = http.post("/v1/images/variations", files=files, data={**fields, "strength": strength}).json()
            far.append(sum(distance(pixels(b64decode(image["b64_json"])), source) for image in answer["data"]))
    assert 1.5 * far[0] < far[1]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (png(50_000, 50_000), "too large"),
        (png(64, 64), "broken"),
        (b"\x89PNG\r\n\x1a\n", "image"),
        (b"text", "not an image"),
    ],
)
def test_bad_images_are_refused_and_the_replica_stays(
    client: openai.OpenAI, server: Server, image: bytes, words: str
) -> None:
    paint(client, BLUE, 3)
    replica = server.replica(NAME)
    with pytest.raises(openai.BadRequestError, match=words) as refused:
        client.images.edit(model=NAME, image=("a.png", image), prompt=BLUE)
    assert refused.value.param == "image"
    assert server.replica(NAME) == replica is not None
    assert paint(client, BLUE, 3)[0].shape == (64, 64, 3)


@pytest.mark.parametrize(("body", "param"), [({"size": "63x64"}, "size"), ({"step": 999}, "step"), ({"n": 99}, "n")])
def test_mistakes(server: Server, body: Any, param: str) -> None:
    with server.client() as http:
        answer = http.post("/v1/images/generations", json={"model": NAME, "prompt": BLUE, **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_client_that_leaves_stops_the_denoising(server: Server) -> None:
    body = {"model": NAME, "prompt": BLUE, "step": 150, "n": 10}
    with server.client() as http, pytest.raises(httpx.ReadTimeout):
        http.post("/v1/images/generations", json=body, timeout=httpx.Timeout(120, read=1))
    eventually(lambda: server.in_flight(NAME) == 0, seconds=20)
