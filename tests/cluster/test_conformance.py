"""What LocalAI's clients rely on: its swagger, operation by operation, and what its own tests assert."""

import json
import math
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from tests.localai import APPLIED, MODELS, NAMES, TABLE, check, wav
from tests.serving import KEY, Server

LISTS = ({"name": "list1"}, {"name": "list2"})


@pytest.fixture(scope="module", autouse=True)
def _models(server: Server) -> Iterator[None]:
    """All in one file, and loaded at once: one after another they would take half a minute."""
    config = server.models_path / "localai.yaml"
    config.write_text(json.dumps([{**model, "backend": "echo"} for model in (*MODELS, *LISTS)]))

    def load(model: dict[str, str]) -> None:
        with server.client() as client:
            client.post("/backend/load", json={"model": model["name"]}).raise_for_status()

    with server.client() as client:
        assert client.post("/models/reload").raise_for_status().json()["errors"] == {}
        with ThreadPoolExecutor() as pool:
            list(pool.map(load, (*MODELS, *LISTS)))
        yield
        for kept in ("assistants", "files"):
            listed = client.get(f"/v1/{kept}").json()
            for one in listed if kept == "assistants" else listed["data"]:
                client.delete(f"/v1/{kept}/{one['id']}").raise_for_status()
        config.unlink()
        (server.models_path / f"{APPLIED['name']}.yaml").unlink(missing_ok=True)
        client.post("/models/reload").raise_for_status()


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


@pytest.mark.parametrize(("method", "path"), TABLE)
def test_the_swagger(http: httpx.Client, method: str, path: str) -> None:
    names = {name: made(http) for name, made in NAMES.items() if f"{{{name}}}" in path}
    request = TABLE[method, path]
    url = path.format_map(names)
    check(method, path, http.request(method, url, json=request.json, files=request.files, data=request.data or None))


# ---- LocalAI's own assertions ----------------------------------------------------------------------------------------


def test_without_a_key(server: Server) -> None:
    refused = httpx.post(f"{server.url}/models/available", trust_env=False)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


def test_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.completions.create(model="foomodel", prompt="x")
    assert refused.value.code == "model_not_found"


def test_the_system(http: httpx.Client) -> None:
    system = http.get("/system").json()
    assert {"llama-cpp", "sentence-transformers"} <= set(system["backends"])
    assert {"id": MODELS[0]["name"], "backend": "echo"} in system["loaded_models"]


def test_models_of_one_file(client: openai.OpenAI, http: httpx.Client) -> None:
    for model in ("list1", "list2"):
        answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content
    (choice,) = http.post("/v1/edits", json={"model": "list2", "instruction": "x", "input": "y"}).json()["choices"]
    assert choice["text"]


def test_text(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Count to three: 1, 2"}]
    (choice,) = client.chat.completions.create(model="gpt-4", messages=messages).choices  # type: ignore[arg-type]
    assert choice.message.content == "Count to three: 1, 2"
    chunks = list(client.chat.completions.create(model="gpt-4", messages=messages, stream=True))  # type: ignore[arg-type]
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) > 1
    pieces = [chunk.choices[0].text for chunk in client.completions.create(model="gpt-4", prompt="abc", stream=True)]
    assert "".join(pieces) == "abc" and len(pieces) > 1


def test_images(client: openai.OpenAI, http: httpx.Client) -> None:
    (image,) = client.images.generate(prompt="A cute baby sea otter", size="512x512").data or ()  # no model named
    assert image.url and image.url.startswith(str(http.base_url)) and ".png" in image.url
    answer = http.get(image.url)
    assert answer.headers["content-type"] == "image/png" and answer.content.startswith(b"\x89PNG")
    assert int(answer.headers["content-length"]) == len(answer.content)
    body = {"prompt": "floating hair, portrait", "mode": 2, "seed": 9000, "size": "256x256", "n": 2}
    assert len(http.post("/v1/images/generations", json=body).json()["data"]) == 2
    (image,) = client.images.generate(model="stablediffusion", prompt="x", response_format="b64_json").data or ()
    assert b64decode(image.b64_json or "").startswith(b"\x89PNG")


def test_embeddings(client: openai.OpenAI) -> None:
    def embedded(*texts: str) -> list[list[float]]:
        answer = client.embeddings.create(model="text-embedding-ada-002", input=list(texts))
        return [item.embedding for item in answer.data]

    (sun,), (cat,) = embedded("sun"), embedded("cat")
    assert embedded("sun", "cat") == [sun, cat] and sun != cat
    assert len(embedded("word " * 1000)) == 1


def test_speech_and_transcription(client: openai.OpenAI, http: httpx.Client) -> None:
    assert client.audio.speech.create(model="tts-1", voice="alloy", input="Hello!").read()
    spoken = http.post("/tts", json={"model": "tts-1", "input": "Hello world"})
    assert spoken.headers["content-type"] == "audio/x-wav" and spoken.content.startswith(b"RIFF")
    recording = ("speech.wav", wav(3))
    assert "This is the" in client.audio.transcriptions.create(model="whisper-1", file=recording).text
    vtt = client.audio.transcriptions.create(model="whisper-1", file=recording, response_format="vtt")
    assert vtt.startswith("WEBVTT") and "00:00:00.000 -->" in vtt


def test_rerank(http: httpx.Client) -> None:
    documents = [f"skincare {letters}" for letters in ("organic", *"abcdefghi")]
    body = {"model": "jina-reranker-v1-base-en", "query": "organic skincare", "documents": documents, "top_n": 3}
    answer = http.post("/v1/rerank", json=body).json()
    scores = [result["relevance_score"] for result in answer["results"]]
    assert answer["model"] == body["model"] and len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_voice_activity(http: httpx.Client) -> None:
    quiet, loud = [0.0] * 8000, [0.5] * 8000
    (segment,) = http.post("/v1/vad", json={"model": "silero-vad", "audio": quiet + loud}).json()["segments"]
    assert (segment["start"], segment["end"]) == pytest.approx((0.5, 1.0))


def test_stores(server: Server) -> None:
    """Each request by a connection of its own: by any ingress."""

    def post(operation: str, **body: object) -> httpx.Response:
        with server.client() as http:
            return http.post(f"/stores/{operation}", json={"store": "walk", **body}).raise_for_status()

    keys, values = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]], ["test1", "test2", "test3"]
    post("set", keys=keys, values=values)
    got = post("get", keys=keys).json()
    assert len(got["keys"]) == 3
    for key, value in zip(got["keys"], got["values"], strict=True):
        assert value == values[min(range(3), key=lambda i: math.dist(keys[i], key))]
    post("delete", keys=keys[:1])
    found = post("find", key=keys[0], topk=2).json()
    assert set(found["values"]) == {"test2", "test3"} and len(found["keys"]) == 2
    assert all(-1 <= similarity <= 1 for similarity in found["similarities"])
    post("delete", keys=keys)
