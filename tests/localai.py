"""LocalAI's swagger as a table: how each operation is called, and what must be in its answer."""

import io
import json
import secrets
import wave
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jsonschema

from tests.serving import eventually

SWAGGER: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures" / "localai-swagger.json").read_text())
OPERATIONS = {(method, path) for path, methods in SWAGGER["paths"].items() for method in methods}

MODELS: tuple[dict[str, Any], ...] = (
    {"name": "smollm2-135m-instruct", "known_usecases": ["chat"]},
    {"name": "all-MiniLM-L6-v2", "known_usecases": ["embeddings"]},
    {"name": "ms-marco-minilm-l6-v2", "known_usecases": ["rerank"]},
    {"name": "whisper-base", "known_usecases": ["transcript"], "options": ["answer:This is the"]},
    {"name": "voice-en-us-joe-medium", "known_usecases": ["tts"]},
    {"name": "stable-diffusion-v1-5", "known_usecases": ["image"]},
    {"name": "silero-vad", "known_usecases": ["vad"]},
    {"name": "sounds", "known_usecases": ["sound_generation"]},
)
"""Echo models, under the names that configs/aliases.yaml gives LocalAI's default names to."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A request of an operation, and what its answer must have beside a body of the swagger's schema."""

    has: str = ""
    """Keys, with spaces between: the swagger requires none. Of each item, where the body is an array."""
    media_type: str = "application/json"
    json: Any = None
    files: Any = None
    data: dict[str, str] = field(default_factory=dict)


CHAT = {"model": "gpt-4", "messages": [{"role": "user", "content": "How much is 2+2?"}]}
COMPLETION = "id object created model choices usage"
JOB = "deletion file_name error processed message progress file_size downloaded_size gallery_model_name"
STARTED = "uuid status"
FILE = "id object bytes created_at filename purpose"
ASSISTANT = "id object created model"


APPLIED = {"name": "applied", "config_file": {"backend": "echo"}}


def wav(seconds: float = 1) -> bytes:
    """A recording of silence."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(2 * round(8000 * seconds)))
    return content.getvalue()


TABLE: dict[tuple[str, str], Answer] = {
    ("get", "/api/p2p"): Answer("nodes federated_nodes"),
    ("get", "/api/p2p/token"): Answer(media_type="text/plain"),
    ("get", "/backend/monitor"): Answer("state memory", json={"model": "gpt-4"}),
    ("post", "/backend/shutdown"): Answer(json={"model": "silero-vad"}),
    ("get", "/metrics"): Answer(media_type="text/plain"),
    ("post", "/models/apply"): Answer(STARTED, json=APPLIED),
    ("get", "/models/available"): Answer("name url gallery files tags installed"),
    ("post", "/models/delete/{name}"): Answer(STARTED),
    ("get", "/models/galleries"): Answer("name url"),
    ("post", "/models/galleries"): Answer("name url", json={"name": "walked", "url": "http://127.0.0.1:9/index.yaml"}),
    ("delete", "/models/galleries"): Answer("name url", json={"name": "walked"}),
    ("get", "/models/jobs"): Answer(),
    ("get", "/models/jobs/{uuid}"): Answer(JOB),
    ("get", "/system"): Answer("backends loaded_models"),
    ("post", "/tts"): Answer(media_type="audio/x-wav", json={"model": "tts-1", "input": "Hello world"}),
    ("get", "/v1/assistants"): Answer(ASSISTANT),
    ("post", "/v1/assistants"): Answer(ASSISTANT, json={"model": "gpt-4", "name": "Ann", "tools": []}),
    ("get", "/v1/assistants/{assistant_id}"): Answer(ASSISTANT),
    ("delete", "/v1/assistants/{assistant_id}"): Answer("id object deleted"),
    ("post", "/v1/audio/speech"): Answer(media_type="audio/x-wav", json={"model": "tts-1", "input": "Hello!"}),
    ("post", "/v1/audio/transcriptions"): Answer("text", files={"file": wav()}, data={"model": "whisper-1"}),
    ("post", "/v1/chat/completions"): Answer(COMPLETION, json=CHAT),
    ("post", "/v1/completions"): Answer(COMPLETION, json={"model": "gpt-4", "prompt": "Count up to five: one, two"}),
    ("post", "/v1/edits"): Answer("choices usage", json={"model": "gpt-4", "instruction": "Spell.", "input": "helo"}),
    ("post", "/v1/embeddings"): Answer("data model object", json={"model": "text-embedding-ada-002", "input": "doc"}),
    ("get", "/v1/files"): Answer("object data"),
    ("get", "/v1/files/{file_id}"): Answer(FILE),
    ("delete", "/v1/files/{file_id}"): Answer("id object deleted"),
    ("get", "/v1/files/{file_id}/content"): Answer(media_type="text/plain"),
    ("post", "/v1/images/generations"): Answer("created data", json={"model": "stablediffusion", "prompt": "a cube"}),
    ("get", "/v1/models"): Answer("object data"),
    ("post", "/v1/rerank"): Answer(
        "model usage results",
        json={"model": "jina-reranker-v1-base-en", "query": "organic", "documents": ["organic skin", "paint"]},
    ),
    ("post", "/v1/sound-generation"): Answer(media_type="audio/x-wav", json={"model_id": "sounds", "text": "rain"}),
    ("post", "/v1/text-to-speech/{voice-id}"): Answer(
        media_type="audio/x-wav", json={"model_id": "tts-1", "text": "Hello!"}
    ),
}
"""Operation → how it is called."""

Name = Callable[[httpx.Client], str]


def _file(client: httpx.Client) -> str:
    name = f"{secrets.token_hex(4)}.txt"
    sent = client.post("/v1/files", files={"file": (name, b"walk")}, data={"purpose": "fine-tune"})
    return str(sent.raise_for_status().json()["id"])


def _assistant(client: httpx.Client) -> str:
    return str(client.post("/v1/assistants", json={"model": "gpt-4"}).raise_for_status().json()["id"])


def _job(client: httpx.Client) -> str:
    """Of an installation that has ended."""
    uuid = str(client.post("/models/apply", json=APPLIED).raise_for_status().json()["uuid"])
    eventually(lambda: client.get(f"/models/jobs/{uuid}").json()["processed"])
    return uuid


def _installed(client: httpx.Client) -> str:
    _job(client)
    return str(APPLIED["name"])


NAMES: dict[str, Name] = {
    "assistant_id": _assistant,
    "file_id": _file,
    "name": _installed,
    "uuid": _job,
    "voice-id": lambda _: "alloy",
}
"""Parameter of a path → makes one that exists."""


def check(method: str, path: str, response: httpx.Response) -> None:
    """Fails unless the answer is as the swagger and the table say."""
    expected = TABLE[method, path]
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].partition(";")[0] == expected.media_type
    assert response.content
    schema = SWAGGER["paths"][path][method]["responses"].get("200", {}).get("schema", {})
    if expected.media_type != "application/json":
        assert schema.get("type", "string") == "string"
        return
    body = response.json()
    jsonschema.Draft4Validator({**schema, "definitions": SWAGGER["definitions"]}).validate(body)
    for item in body if isinstance(body, list) else [body]:
        assert item.keys() >= set(expected.has.split())
