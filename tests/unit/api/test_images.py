"""Image routes over a scripted gateway: what reaches the replica, what the client gets, and what is refused."""

import asyncio
import json
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from api.schemas.image import ImagesResponse
from deployments.backends.base import ImageEvent, ImageRequest, ImageResult, ModelCard, Task
from deployments.errors import EngineError, InvalidRequest
from gallery.folder_blobs import FolderBlobs
from tests.unit.http_clients import AppFactory, Served, http_client
from tests.unit.local_dispatch import CARDS, LocalDispatch
from tests.unit.waiting import until

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01"
"""As far as its size."""
A, B, MASK = PNG + b"a", PNG + b"b", PNG + b"mask"
GENERATIONS = "/v1/images/generations"


@pytest.fixture
def gateway() -> LocalDispatch:
    gateway = LocalDispatch()
    gateway.installed = (*CARDS, ModelCard("sd", [Task.IMAGE], 1_700_000_006, "diffusers"))
    gateway.result = ImageResult([A], 64, 48, seed=7)
    return gateway


@pytest.fixture
def app(app: FastAPI, tmp_path: Path) -> FastAPI:
    """One that keeps images in a folder of the test's own."""
    app.state.generated_images = FolderBlobs(tmp_path / "images", 3600)
    return app


async def generate(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post(GENERATIONS, json={"prompt": "a cat", **body})


def refusal(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["param"], error["message"]


# ---- what reaches the replica ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [GENERATIONS, "/images/generations"])
async def test_a_bare_request_leaves_all_to_the_model(
    gateway: LocalDispatch, client: httpx.AsyncClient, path: str
) -> None:
    assert (await client.post(path, json={"prompt": " a cat "}, headers={"X-Request-ID": "r"})).status_code == 200
    assert gateway.requests == [
        (
            "sd",
            "paint",
            ImageRequest(prompt="a cat", max_work=1_000_000_000, tenant="anonymous", request_id="r"),
        )
    ]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"prompt": "a|b|c"}, {"prompt": "a", "negative_prompt": "b"}),
        ({"prompt": "a|b", "negative_prompt": "c"}, {"prompt": "a", "negative_prompt": "c"}),
        ({"prompt": "a|"}, {"prompt": "a", "negative_prompt": None}),
        ({"size": "256x128"}, {"width": 256, "height": 128}),
        ({"size": "auto"}, {"width": None, "height": None}),
        ({"size": ""}, {"width": None, "height": None}),
        ({"n": 3, "seed": 5, "step": 20, "cfg_scale": 3}, {"n": 3, "seed": 5, "steps": 20, "guidance": 3.0}),
        ({"seed": -1}, {"seed": -1}),
        ({"quality": "30"}, {"steps": 30}),
        ({"quality": 30}, {"steps": 30}),
        ({"quality": "30", "step": 2}, {"steps": 2}),
        ({"quality": "hd", "style": "vivid", "user": "ann", "moderation": "low", "mode": 2}, {"steps": None}),
        ({"background": "opaque"}, {}),
        ({"output_format": "webp", "output_compression": 50}, {"format": "webp", "compression": 50}),
        ({"partial_images": 2}, {"partial_images": 0}),
        ({"file": b64encode(A).decode(), "strength": 0.5}, {"image": A, "strength": 0.5, "mask": None}),
        ({"image": b64encode(A).decode()}, {"image": A}),
    ],
)
async def test_fields(gateway: LocalDispatch, client: httpx.AsyncClient, body: Any, fields: Any) -> None:
    response = await generate(client, **body)
    assert response.status_code == 200, response.text
    assert {name: getattr(gateway.request, name) for name in fields} == fields


async def test_each_prompt_is_a_request_of_its_own_at_the_same_time(
    gateway: LocalDispatch, client: httpx.AsyncClient
) -> None:
    gateway.wait = asyncio.Event()
    gateway.result = ImageResult([A, B], 64, 64, seed=7)
    asked = asyncio.create_task(generate(client, prompt=["a", "b|c"], n=2, seed=7, response_format="b64_json"))
    await until(lambda: len(gateway.requests) == 2)
    gateway.wait.set()
    data = (await asked).json()["data"]
    assert [(image["index"], b64decode(image["b64_json"]), image["seed"]) for image in data] == [
        (0, A, 7),
        (1, B, 8),
        (2, A, 7),
        (3, B, 8),
    ]
    assert [(r.prompt, r.negative_prompt, r.n, r.max_work) for _, _, r in gateway.requests] == [
        ("a", None, 2, 500_000_000),
        ("b", "c", 2, 500_000_000),
    ]


async def test_large_images_go_by_reference(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    await client.post("/v1/images/variations", files={"image": ("a.png", A)})
    assert not gateway.large
    await client.post("/v1/images/variations", files={"image": ("a.png", PNG + bytes(2**20))})
    assert gateway.large


# ---- answers ---------------------------------------------------------------------------------------------------------


async def test_answer_with_the_image_in_it(openai_client: openai.AsyncOpenAI) -> None:
    raw = await openai_client.images.with_raw_response.generate(
        prompt="a cat", model="sd", response_format="b64_json", output_format="png"
    )
    ImagesResponse.model_validate_json(raw.content)
    answer = raw.parse()
    assert answer.data and b64decode(answer.data[0].b64_json or "") == A
    assert (answer.size, answer.output_format, answer.background) == ("64x48", "png", "opaque")
    assert answer.usage is not None and answer.usage.total_tokens == 0
    item = json.loads(raw.content)["data"][0]
    assert item == {"index": 0, "b64_json": b64encode(A).decode(), "seed": 7}


async def test_answer_by_url(gateway: LocalDispatch, client: httpx.AsyncClient, tmp_path: Path) -> None:
    gateway.result = ImageResult([A, B], 64, 48, seed=7)
    body = (await generate(client, n=2)).json()
    ImagesResponse.model_validate(body)
    urls = [image["url"] for image in body["data"]]
    assert len(set(urls)) == 2
    for url, image in zip(urls, (A, B), strict=True):
        assert url.startswith("http://manta/generated-images/") and url.endswith(".png")
        assert len(url) - len("http://manta/generated-images/.png") >= 32  # 128 bits
        found = await client.get(url)
        assert (found.status_code, found.content) == (200, image)
        assert found.headers["content-type"] == "image/png"
        assert found.headers["content-length"] == str(len(image))
        assert found.headers["cache-control"].startswith("private, max-age=3")
        head = await client.head(url)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(image)))
        assert head.headers["content-type"] == "image/png"
    assert len(list((tmp_path / "images").iterdir())) == 2


async def test_links_lead_where_the_client_is(client: httpx.AsyncClient) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "ai.example.org", "X-Forwarded-Prefix": "/manta"}
    response = await client.post(GENERATIONS, json={"prompt": "x"}, headers=headers)
    assert response.json()["data"][0]["url"].startswith("https://ai.example.org/manta/generated-images/")


@pytest.mark.parametrize(
    ("image", "suffix", "kind"), [(b"RIFF", ".webp", "image/webp"), (b"\xff\xd8", ".jpg", "image/jpeg")]
)
async def test_formats_by_url(
    gateway: LocalDispatch, client: httpx.AsyncClient, image: bytes, suffix: str, kind: str
) -> None:
    gateway.result = ImageResult([image], 64, 48, seed=7)
    url = (await generate(client)).json()["data"][0]["url"]
    assert url.endswith(suffix)
    assert (await client.get(url)).headers["content-type"] == kind


async def test_images_that_are_gone(make_app: AppFactory, gateway: LocalDispatch) -> None:
    async with http_client(make_app(generated_ttl=0.05)) as client:
        url = (await generate(client)).json()["data"][0]["url"]
        deadline = asyncio.get_running_loop().time() + 10
        while (gone := await client.get(url)).status_code == 200:
            assert asyncio.get_running_loop().time() < deadline
        for response in (
            gone,
            await client.get("/generated-images/none.png"),
            await client.get("/generated-images/..%2Fx"),
        ):
            assert response.status_code == 404
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert (await client.head(url)).status_code == 404


async def test_images_are_kept_for_ever_where_the_setting_says_so(make_app: AppFactory) -> None:
    async with http_client(make_app(generated_ttl=0)) as client:
        url = (await generate(client)).json()["data"][0]["url"]
        assert (await client.get(url)).headers["cache-control"] == "private, max-age=31536000, immutable"


async def test_images_need_the_key(make_app: AppFactory) -> None:
    async with http_client(make_app(api_keys=("k",))) as client:
        key = {"Authorization": "Bearer k"}
        url = (await client.post(GENERATIONS, json={"prompt": "x"}, headers=key)).json()["data"][0]["url"]
        assert (await client.get(url)).status_code == 401
        assert (await client.get(url, headers=key)).status_code == 200


async def test_a_real_server_sends_head_and_body(app: FastAPI, gateway: LocalDispatch) -> None:
    gateway.result = ImageResult([PNG + bytes(2**20)], 64, 48, seed=7)
    async with Served(app) as served, httpx.AsyncClient(base_url=served.url) as client:
        url = (await generate(client)).json()["data"][0]["url"]
        assert (await client.get(url)).content == PNG + bytes(2**20)
        assert (await client.head(url)).headers["content-length"] == str(2**20 + len(PNG))
        assert (await client.get("/healthz")).status_code == 200


# ---- streams ---------------------------------------------------------------------------------------------------------


async def test_a_stream(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    gateway.script = [  # type: ignore[assignment]
        ImageEvent(1, 3),
        ImageEvent(2, 3, partials={0: A}),
        ImageEvent(3, 3, partials={0: B}),
        ImageEvent(3, 3, finished={0: MASK}),
    ]
    stream = await openai_client.images.generate(
        prompt="a cat", model="sd", stream=True, partial_images=2, size="1024x1024", quality="high"
    )
    events = [event async for event in stream]
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [b64decode(event.b64_json) for event in events] == [A, B, MASK]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]  # type: ignore[union-attr]
    for event in events:
        assert (event.size, event.quality, event.background, event.output_format) == (
            "1024x1024",
            "high",
            "auto",
            "png",
        )
        assert type(event).model_validate(event.to_dict())
    assert events[2].usage.total_tokens == 0  # type: ignore[union-attr]
    assert gateway.requests[-1][:2] == ("sd", "stream_paint")
    assert gateway.request.partial_images == 2


async def test_a_stream_on_the_wire(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.script = [ImageEvent(1, 2), ImageEvent(2, 2, finished={0: A})]  # type: ignore[assignment]
    response = await generate(client, stream=True, quality="hd")
    assert response.headers["content-type"].startswith("text/event-stream")
    comment, event, end = response.text.split("\n\n")
    assert (comment, end) == (": step 1 of 2", "")
    name, data = event.splitlines()
    assert name == "event: image_generation.completed"
    assert json.loads(data.removeprefix("data: "))["quality"] == "high"


async def test_a_stream_of_several_prompts_and_images(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.script = [  # type: ignore[assignment]
        ImageEvent(1, 1, partials={0: A, 1: A}),
        ImageEvent(1, 1, finished={1: B, 0: A}),
    ]
    response = await generate(client, prompt=["a", "b"], n=2, stream=True, partial_images=1)
    lines = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
    assert [(line["type"].partition(".")[2], line["index"]) for line in lines] == [
        (kind, index) for first in (0, 2) for kind in ("partial_image", "completed") for index in (first, first + 1)
    ]
    assert {line["partial_image_index"] for line in lines if "partial_image_index" in line} == {0}


async def test_an_error_before_and_within_a_stream(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    gateway.script = [InvalidRequest("no").at("size")]
    with pytest.raises(openai.BadRequestError) as refused:
        await openai_client.images.generate(prompt="a", model="sd", stream=True)
    assert refused.value.param == "size"
    gateway.script = [ImageEvent(1, 2), EngineError("out of memory")]  # type: ignore[list-item]
    stream = await openai_client.images.generate(prompt="a", model="sd", stream=True)
    with pytest.raises(openai.APIError, match="out of memory"):
        _ = [event async for event in stream]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_the_painting(gateway: LocalDispatch, app: FastAPI, stream: bool) -> None:
    gateway.wait = asyncio.Event()
    gateway.script = [ImageEvent(1, 2), asyncio.Event()]  # type: ignore[list-item]
    async with Served(app) as served, httpx.AsyncClient(base_url=served.url) as client:
        asked = asyncio.create_task(generate(client, stream=stream))
        await until(lambda: gateway.requests)
        asked.cancel()
        await asyncio.wait_for(gateway.ended.wait(), 5)


async def test_one_failure_ends_the_other_prompts(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.result = EngineError("out of memory")
    response = await generate(client, prompt=["a", "b"])
    assert (response.status_code, response.json()["error"]["message"]) == (500, "out of memory")


# ---- forms -----------------------------------------------------------------------------------------------------------


async def test_an_edit(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    answer = await openai_client.images.edit(
        image=("a.png", A), mask=("m.png", MASK), prompt="a dog|blur", model="sd", n=2, size="256x256",
        response_format="b64_json", extra_body={"seed": 3, "strength": 0.4},
    )  # fmt: skip
    assert answer.data and b64decode(answer.data[0].b64_json or "") == A
    request = gateway.request
    assert (request.image, request.mask, request.mask_is_alpha) == (A, MASK, True)
    assert (request.prompt, request.negative_prompt, request.n, request.width) == ("a dog", "blur", 2, 256)
    assert (request.seed, request.strength) == (3, 0.4)


async def test_an_edit_of_an_array_of_one(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    await openai_client.images.edit(image=[("a.png", A)], prompt="a dog", model="sd")
    assert (gateway.request.image, gateway.request.mask) == (A, None)
    with pytest.raises(openai.BadRequestError, match="One image") as refused:
        await openai_client.images.edit(image=[("a.png", A), ("b.png", B)], prompt="a dog", model="sd")
    assert (refused.value.param, refused.value.code) == ("image", "unsupported_parameter")


async def test_a_stream_of_an_edit(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    gateway.script = [ImageEvent(1, 2, partials={0: A}), ImageEvent(2, 2, finished={0: B})]  # type: ignore[list-item]
    stream = await openai_client.images.edit(
        image=("a.png", A), prompt="a dog", model="sd", stream=True, partial_images=1
    )
    assert [event.type async for event in stream] == ["image_edit.partial_image", "image_edit.completed"]
    assert gateway.request.partial_images == 1


async def test_a_variation(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    with pytest.deprecated_call():  # by OpenAI, whose models of it are retired
        await openai_client.images.create_variation(image=("a.png", A), model="sd", n=2, size="256x256")
    request = gateway.request
    assert (request.image, request.prompt, request.n, request.mask) == (A, "", 2, None)


async def test_inpainting_s_mask_is_white(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    files = {"image": ("a.png", A), "mask": ("m.png", MASK)}
    response = await client.post(
        "/v1/images/inpainting", files=files, data={"prompt": "a dog", "step": "9", "model": ""}
    )
    assert response.status_code == 200
    assert (gateway.request.mask, gateway.request.mask_is_alpha, gateway.request.steps) == (MASK, False, 9)


@pytest.mark.parametrize(
    ("path", "files", "data", "param"),
    [
        ("edits", {}, {"prompt": "x"}, "image"),
        ("edits", {"image": A}, {}, "prompt"),
        ("edits", {"image": A}, {"prompt": "x", "n": "many"}, "n"),
        ("edits", {"image": A}, {"prompt": "x", "n": "0"}, "n"),
        ("edits", {"image": A}, {"prompt": "x", "size": "big"}, "size"),
        ("edits", {"image": b"text"}, {"prompt": "x"}, "image"),
        ("edits", {"image": b""}, {"prompt": "x"}, "image"),
        ("edits", {"image": A, "mask": b"text"}, {"prompt": "x"}, "mask"),
        ("edits", {"mask": MASK}, {"prompt": "x", "image": "text"}, "image"),
        ("edits", {"image": A}, {"prompt": "x", "mask": "text"}, "mask"),
        ("edits", {"image": A}, {"prompt": "x", "model": "nope"}, "model"),
        ("inpainting", {"image": A}, {"prompt": "x"}, "mask"),
        ("variations", {"image": A}, {"strength": "2"}, "strength"),
    ],
)
async def test_bad_forms(
    client: httpx.AsyncClient, path: str, files: dict[str, bytes], data: dict[str, str], param: str
) -> None:
    sent = {name: (f"{name}.png", content) for name, content in files.items()} or {"other": ("o", b"")}
    status, found, message = refusal(await client.post(f"/v1/images/{path}", files=sent, data=data))
    assert (status, found) == (404 if param == "model" else 400, param), message


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "multipart/form-data"])
async def test_a_body_that_is_no_form(client: httpx.AsyncClient, content_type: str) -> None:
    response = await client.post("/v1/images/edits", content=b'{"prompt": "x"}', headers={"Content-Type": content_type})
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["generations", "edits", "variations", "inpainting"])
async def test_bodies_that_are_too_large(make_app: AppFactory, gateway: LocalDispatch, path: str) -> None:
    async with http_client(make_app(image_limit_mb=1)) as client:
        if path == "generations":
            response = await generate(client, file=b64encode(PNG + bytes(2**20)).decode())
        else:
            files = {"image": ("a.png", PNG + bytes(2**20))}
            response = await client.post(f"/v1/images/{path}", files=files, data={"prompt": "x"})
    assert response.status_code == 413
    assert gateway.requests == []


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", " "]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": None}, "prompt"),
        *(
            ({"size": size}, "size")
            for size in ("512", "512x", "x512", "-8x8", "0x64", "64x0", "8.0x8", "1e3x8", "a" * 99)
        ),
        ({"size": "99999x99999"}, "size"),
        ({"size": 512}, "size"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"n": 6, "prompt": ["a", "b"]}, "n"),
        ({"n": 1.5}, "n"),
        ({"step": 0}, "step"),
        ({"step": 151}, "step"),
        ({"quality": "151"}, "step"),
        ({"quality": "ultra"}, "quality"),
        ({"size": "2048x2048", "step": 150, "n": 10}, "size"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"cfg_scale": -1}, "cfg_scale"),
        ({"strength": 0}, "strength"),
        ({"strength": 1.1}, "strength"),
        ({"response_format": "svg"}, "response_format"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"partial_images": 4}, "partial_images"),
        ({"file": "no base64!"}, "file"),
        ({"file": b64encode(b"hello").decode()}, "file"),
        ({"file": "http://127.0.0.1/a.png"}, "file"),
    ],
)
async def test_mistakes(gateway: LocalDispatch, client: httpx.AsyncClient, body: Any, param: str) -> None:
    status, found, message = refusal(await generate(client, **body))
    assert (status, found) == (400, param), message
    assert gateway.requests == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"background": "transparent"}, "background"),
        ({"stream": True, "response_format": "url"}, "response_format"),
        ({"files": ["a"]}, "files"),
        ({"ref_images": ["a"]}, "ref_images"),
    ],
)
async def test_what_is_known_and_not_offered(client: httpx.AsyncClient, body: Any, param: str) -> None:
    response = await generate(client, **body)
    assert refusal(response)[:2] == (400, param)
    assert response.json()["error"]["code"] == "unsupported_parameter"


async def test_limits_are_settings(make_app: AppFactory) -> None:
    settings = {"image_max_pixels": 100, "image_max_n": 2, "image_max_steps": 3, "image_max_work": 300}
    async with http_client(make_app(**settings)) as client:
        assert (await generate(client, size="10x10", n=1, step=3)).status_code == 200
        for body, setting in (
            ({"size": "10x11"}, "image_max_pixels"),
            ({"n": 3}, "image_max_n"),
            ({"step": 4}, "image_max_steps"),
            ({"size": "10x10", "n": 2, "step": 2}, "image_max_work"),
        ):
            status, _, message = refusal(await generate(client, **body))
            assert status == 400
            assert setting in message


async def test_a_model_that_does_not_paint(client: httpx.AsyncClient) -> None:
    assert refusal(await generate(client, model="echo"))[:2] == (400, "model")
    assert refusal(await generate(client, model="nope"))[:2] == (404, "model")
