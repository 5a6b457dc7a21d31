"""Ask models for documents of random JSON Schemas over HTTP, and check every answer: `make verify-schemas`."""

import argparse
import asyncio
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import openai
import yaml

from deployments.backends.registry import BACKENDS
from tests.models.conftest import CACHE, installed
from tests.random_schemas import Schema, random_schema
from tests.serving import KEY, PROJECT, serving

MAX_TOKENS = 2048
"""More than any document of these schemas needs; who gets there runs on."""
TEMPERATURE = 1.0

GGUF = "smollm2-135m-instruct"
SAFETENSORS = CACHE / "smollm2-135m-instruct-safetensors" / "SmolLM2-135M-Instruct"
ENGINES: Mapping[str, Mapping[str, Any]] = {
    "llama-cpp": {"parameters": {"model": "SmolLM2-135M-Instruct.Q4_1.gguf"}, "parallel": 8},
    "transformers": {"parameters": {"model": SAFETENSORS.name}},
    "vllm": {
        "parameters": {"model": SAFETENSORS.name},
        "engine_args": {"dtype": "bfloat16", "enforce_eager": True, "max_model_len": 8192},
    },
}
"""Backend → config of a model, of the same weights everywhere."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request."""

    model: str
    schema: int
    """Seed of `random_schema`."""
    seed: int
    tokens: int
    problem: str | None
    """None: the answer is valid."""


async def ask(client: openai.AsyncOpenAI, model: str, schema_seed: int, seed: int) -> Outcome:
    """One document, checked."""
    schema = random_schema(schema_seed)
    answer = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Make up a JSON document."}],
        response_format={"type": "json_schema", "json_schema": {"name": "document", "schema": schema}},
        temperature=TEMPERATURE,
        seed=seed,
        max_tokens=MAX_TOKENS,
    )
    choice = answer.choices[0]
    problem = _problem(choice.message.content or "", choice.finish_reason, schema)
    return Outcome(model, schema_seed, seed, answer.usage.completion_tokens if answer.usage else 0, problem)


def _problem(text: str, finish_reason: str, schema: Schema) -> str | None:
    if finish_reason != "stop":
        return f"ended by {finish_reason}: …{text[-80:]!r}"
    try:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{str(error).splitlines()[0]}: {text!r}"
    return None


async def ask_all(url: str, models: Sequence[str], schemas: int, seeds: int, at_once: int) -> list[Outcome]:
    """Model after model, `at_once` requests at a time."""
    outcomes: list[Outcome] = []
    gate = asyncio.Semaphore(at_once)

    async def gated(client: openai.AsyncOpenAI, model: str, schema: int, seed: int) -> Outcome:
        async with gate:
            return await ask(client, model, schema, seed)

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=900) as client:
        for model in models:
            began = time.monotonic()
            asked = [gated(client, model, schema, seed) for schema in range(schemas) for seed in range(seeds)]
            answered = await asyncio.gather(*asked)
            sys.stdout.write(summary(model, answered, time.monotonic() - began))
            sys.stdout.flush()
            outcomes += answered
    return outcomes


def summary(model: str, outcomes: Sequence[Outcome], seconds: float) -> str:
    failed = [outcome for outcome in outcomes if outcome.problem]
    tokens = sorted(outcome.tokens for outcome in outcomes)
    valid = f"{len(outcomes) - len(failed)} of {len(outcomes)} valid in {seconds:.0f} s"
    lines = [f"{model}: {valid}; tokens: median {tokens[len(tokens) // 2]}, most {tokens[-1]}"]
    lines += [f"  schema {outcome.schema}, seed {outcome.seed}: {outcome.problem}" for outcome in failed]
    return "\n".join([*lines, ""])


@contextmanager
def own_server(engines: Sequence[str]) -> Iterator[str]:
    """A server with SmolLM2 in each engine. Yields its URL."""
    with tempfile.TemporaryDirectory(prefix="manta-verify-") as folder:
        models = Path(folder) / "models"
        models.mkdir()
        for engine in engines:
            config = {"name": engine, "backend": engine, "context_size": 8192, **ENGINES[engine]}
            config["template"] = {"use_tokenizer_template": True}
            weights = _weights(engine)
            if not (models / weights.name).exists():
                (models / weights.name).symlink_to(weights)
            (models / f"{engine}.yaml").write_text(yaml.safe_dump(config))
        with serving(Path(folder), API_KEY=KEY) as server:
            yield server.url


def _weights(engine: str) -> Path:
    gguf = installed(GGUF) / ENGINES["llama-cpp"]["parameters"]["model"]
    if engine == "llama-cpp":
        return gguf
    if not (SAFETENSORS / "model.safetensors").is_file():
        from tests.fixtures.gguf2hf import convert  # imports torch

        convert(gguf, SAFETENSORS)
    return SAFETENSORS


def _is_installed(engine: str) -> bool:
    backend = BACKENDS[engine]
    if backend.environment is not None:
        return (PROJECT / backend.environment / "bin" / "python").is_file()
    return all(importlib.util.find_spec(module) for module in backend.requires)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.verify.schemas", description=__doc__)
    parser.add_argument("--url", help="ask a server that runs; else one is started for this")
    parser.add_argument(
        "--models", nargs="+", help="with --url: their names; else backends. Default: every engine here"
    )
    parser.add_argument("--schemas", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=8)
    options = parser.parse_args()
    if options.url and not options.models:
        parser.error("--url needs --models")
    models = options.models or [engine for engine in ENGINES if _is_installed(engine)]
    with nullcontext(options.url) if options.url else own_server(models) as url:
        outcomes = asyncio.run(ask_all(url, models, options.schemas, options.seeds, options.at_once))
    return 1 if any(outcome.problem for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
