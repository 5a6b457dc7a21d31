"""Pictures and sounds in the llama-cpp engine: random projectors on SmolLM2-135M, and on tiny random models."""

import asyncio
import ctypes
import io
import threading
import wave
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from llama_cpp import mtmd_cpp as mtmd
from PIL import Image

from deployments.backends.base import Generate, Media, Sampling, Token, TokenGroup
from deployments.backends.llama_cpp import LlamaCpp
from deployments.backends.llama_media import MediaPrompt
from deployments.backends.llama_params import context_params, model_params
from deployments.backends.media_span import MediaSpan
from deployments.config import ModelConfig
from deployments.config_blocks import Parameters
from deployments.errors import ContextLengthExceeded, EngineError, InvalidRequest, ModelLoadFailed

from .conftest import installed
from .test_llama_cpp import DRIFT, parted, until

GREEDY = Sampling(temperature=0)
CONTEXT = 1024
MODELS = {
    "llava": "smollm2.gguf",
    "llava-uhd": "plain.gguf",
    "gemma3": "plain.gguf",
    "qwen2vl": "mrope.gguf",
    "ultravox": "plain.gguf",
}
"""Projector → model; SmolLM2 takes seconds where the random ones take milliseconds."""

Load = Callable[..., LlamaCpp]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory: SmolLM2, two tiny models, and a projector of each family."""
    from tests.fixtures.tiny_mmproj import MODEL_WIDTH, write_model, write_projector

    directory = tmp_path_factory.mktemp("models")
    smollm2 = installed("smollm2-135m-instruct") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    (directory / "smollm2.gguf").symlink_to(smollm2)
    for name, architecture in {"plain": "llama", "mrope": "qwen2vl"}.items():
        write_model(directory / f"{name}.gguf", architecture, vocabulary_of=smollm2)
    for family, weights in MODELS.items():
        write_projector(directory / f"{family}.gguf", family, 576 if weights == "smollm2.gguf" else MODEL_WIDTH)
    return directory


def config(family: str | None, **fields: Any) -> ModelConfig:
    weights = MODELS[family] if family else "smollm2.gguf"
    mmproj = f"{family}.gguf" if family else None
    fields = {"context_size": CONTEXT, "threads": 1, **fields}
    return ModelConfig(name="m", parameters=Parameters(model=weights), mmproj=mmproj, **fields)


@pytest.fixture(scope="module")
def shared(models: Path) -> Iterator[Load]:
    """The engine of a family, loaded once."""
    engines: dict[str, LlamaCpp] = {}

    def get(family: str) -> LlamaCpp:
        if family not in engines:
            engines[family] = LlamaCpp.load(config(family), models, lambda fraction: None)
        return engines[family]

    yield get
    for engine in engines.values():
        engine.close()


@pytest.fixture
def fresh(models: Path) -> Iterator[Load]:
    """Makes engines of one's own."""
    engines = []

    def make(family: str | None, **fields: Any) -> LlamaCpp:
        engines.append(LlamaCpp.load(config(family, **fields), models, lambda fraction: None))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def picture(seed: int, width: int = 150, height: int = 100) -> Media:
    """Coloured tiles."""
    tiles = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(tiles).resize((width, height), Image.Resampling.NEAREST).save(file, "PNG")
    return Media("image", file.getvalue())


def sound(seed: int, seconds: float = 2) -> Media:
    file = io.BytesIO()
    samples = np.random.default_rng(seed).normal(0, 6000, int(16_000 * seconds)).clip(-32768, 32767)
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(samples.astype("<i2").tobytes())
    return Media("audio", file.getvalue())


def medium(family: str, seed: int) -> Media:
    return sound(seed) if family == "ultravox" else picture(seed)


def ask(engine: LlamaCpp, text: str, *media: Media, **fields: Any) -> Generate:
    """`{}` in the text: the place of a medium."""
    places = [engine.media_markers.get(item.kind) for item in media]
    prompt = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n".format(*places)
    fields = {"sampling": GREEDY, "max_tokens": 16, **fields}
    if media:
        return Generate([], prompt=prompt, media=list(media), **fields)
    return Generate(engine.tokenize(prompt, add_bos=True, special=True), **fields)


async def collect(engine: LlamaCpp, request: Generate) -> tuple[list[Token], TokenGroup]:
    """The tokens, and the first group, which says how long the prompt is and how much of it was in the cache."""
    groups = [group async for group in engine.generate(request)]
    return [token for group in groups for token in group.tokens], groups[0]


def upstream(models: Path, family: str, text: str, media: list[Media], count: int) -> tuple[list[int], int]:
    """Greedy ids and the prompt's tokens as llama.cpp's own helper makes them, in a context of its own."""
    settings = config(family)
    model = llama_cpp.llama_model_load_from_file(
        str(models / str(settings.parameters.model)).encode(), model_params(settings)
    )
    context = llama_cpp.llama_init_from_model(model, context_params(settings, CONTEXT)[0])
    params = mtmd.mtmd_context_params_default()
    params.n_threads = 1
    projector = mtmd.mtmd_init_from_file(str(models / str(settings.mmproj)).encode(), model, params)
    prompt = text.format(*[mtmd.mtmd_default_marker().decode()] * len(media)).encode()
    bitmaps = [
        mtmd.mtmd_helper_bitmap_init_from_buf(
            projector, (ctypes.c_uint8 * len(item.data)).from_buffer_copy(item.data), len(item.data), False
        )
        for item in media
    ]
    chunks = mtmd.mtmd_input_chunks_init()
    given = mtmd.mtmd_input_text(prompt, len(prompt), True, True)
    pointers = (mtmd.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
    assert mtmd.mtmd_tokenize(projector, chunks, ctypes.byref(given), pointers, len(bitmaps)) == 0
    length = mtmd.mtmd_helper_get_n_tokens(chunks)
    position = llama_cpp.llama_pos(0)
    assert not mtmd.mtmd_helper_eval_chunks(projector, context, chunks, 0, 0, 512, True, ctypes.byref(position))
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    size = llama_cpp.llama_vocab_n_tokens(vocabulary)
    ids: list[int] = []
    batch = llama_cpp.llama_batch_init(1, 0, 1)
    while len(ids) < count:
        token = int(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (size,)).argmax())
        if llama_cpp.llama_vocab_is_eog(vocabulary, token):
            break
        ids.append(token)
        batch.n_tokens, batch.token[0], batch.pos[0] = 1, token, position.value + len(ids) - 1
        batch.n_seq_id[0], batch.seq_id[0][0], batch.logits[0] = 1, 0, 1
        assert llama_cpp.llama_decode(context, batch) == 0
    llama_cpp.llama_batch_free(batch)
    for bitmap in bitmaps:
        mtmd.mtmd_bitmap_free(bitmap)
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_free(projector)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return ids, length


# ---- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", MODELS)
async def test_the_answer_is_that_of_llama_cpps_own_helper(models: Path, shared: Load, family: str) -> None:
    engine = shared(family)
    media = [medium(family, 1), medium(family, 2)]
    text = "Compare {} with {}. What do they show?"
    request = ask(engine, text, *media, max_tokens=24)
    expected, length = upstream(
        models, family, f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", media, 24
    )
    tokens, first = await collect(engine, request)
    assert first.prompt_tokens == length
    assert [token.id for token in tokens] == expected
    assert len(tokens) > 3


@pytest.mark.parametrize("family", MODELS)
async def test_another_picture_is_another_prompt(shared: Load, family: str) -> None:
    engine = shared(family)
    seen: list[dict[int, float]] = []
    for seed in (1, 2, 1):
        request = ask(engine, "Look: {} What?", medium(family, seed), max_tokens=1, top_logprobs=5)
        (token,), _ = await collect(engine, request)
        assert token.logprob
        seen.append({top.id: top.logprob for top in token.logprob.top})
    assert seen[0] == pytest.approx(seen[2], abs=0.01)
    assert seen[0].keys() != seen[1].keys() or seen[0] != pytest.approx(seen[1], abs=0.05)


@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen2vl"])
async def test_texts_and_pictures_side_by_side_are_as_alone(fresh: Load, family: str) -> None:
    def requests(engine: LlamaCpp) -> list[Generate]:
        texts = [f"{number}: What is this?" for number in range(8)]
        pictures = [ask(engine, "{}" + text, picture(number), top_logprobs=2) for number, text in enumerate(texts)]
        return [
            ask(engine, text, top_logprobs=2) if number % 2 else pictures[number] for number, text in enumerate(texts)
        ]

    busy, idle = fresh(family), fresh(family)
    together = await asyncio.gather(*[collect(busy, request) for request in requests(busy)])
    for request, (tokens, _) in zip(requests(idle), together, strict=True):
        alone, _ = await collect(idle, request)
        parted(alone, tokens, DRIFT)


async def test_the_same_picture_twice_in_a_prompt_and_none_at_its_end(shared: Load) -> None:
    engine = shared("llava")
    same, other = picture(1), picture(2)
    _, twice = await collect(engine, ask(engine, "{}{}", same, same))
    _, both = await collect(engine, ask(engine, "{}{}", same, other))
    assert twice.prompt_tokens == both.prompt_tokens
    assert (
        both.cached_tokens
        == ask(engine, "").tokens.index(engine.tokenize("\n", add_bos=False, special=False)[0]) + 1 + 64
    )
    prompt = f"See {engine.media_markers['image']}"
    asked = Generate([], GREEDY, max_tokens=4, prompt=prompt, media=[same], top_logprobs=2)
    (tokens, first), (again, second) = await collect(engine, asked), await collect(engine, asked)
    assert first.prompt_tokens == second.prompt_tokens
    parted(tokens, again, DRIFT)
    before = engine.tokenize("See ", add_bos=False, special=False)
    assert second.cached_tokens == len(before), "all of a picture is decoded again when its last row must give logits"


# ---- sharing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", MODELS)
async def test_a_prefix_with_a_picture_is_reused_up_to_the_first_difference(fresh: Load, family: str) -> None:
    engine = fresh(family)
    one = ask(engine, "Here: {} What is it?", medium(family, 1), top_logprobs=2)
    tokens, first = await collect(engine, one)
    again, second = await collect(engine, one)
    assert (first.cached_tokens, second.cached_tokens) == (0, (first.prompt_tokens or 0) - 1)
    parted(tokens, again, DRIFT)
    _, other = await collect(engine, ask(engine, "Here: {} What is it?", medium(family, 2)))
    assert other.cached_tokens < 16
    _, longer = await collect(engine, ask(engine, "Here: {} What is it? And {}?", medium(family, 1), medium(family, 2)))
    assert longer.cached_tokens > other.cached_tokens + 15


@pytest.mark.parametrize("family", MODELS)
async def test_a_conversation_goes_on_behind_its_picture(fresh: Load, family: str) -> None:
    engine, plain = fresh(family), fresh(family)
    first = ask(engine, "Here: {} What is it?", medium(family, 1), top_logprobs=2)
    said, _ = await collect(engine, first)
    turn = engine.detokenize([token.id for token in said]).decode(errors="replace")

    def second(engine: LlamaCpp) -> Generate:
        text = "Here: {} What is it?<|im_end|>\n<|im_start|>assistant\n" + turn.replace("{", "").replace("}", "")
        return ask(engine, text + "<|im_end|>\n<|im_start|>user\nAre you sure?", medium(family, 1), top_logprobs=2)

    tokens, group = await collect(engine, second(engine))
    expected, _ = await collect(plain, second(plain))
    assert group.cached_tokens > 20
    parted(expected, tokens, DRIFT)


@pytest.mark.parametrize("family", ["llava", "qwen2vl"])
async def test_a_picture_that_left_the_cache_comes_back_by_a_copy(fresh: Load, family: str) -> None:
    engine = fresh(family, context_size=256, kv_cells=256, parallel=2)
    asked = ask(engine, "Here: {} What is it?", medium(family, 1), top_logprobs=2)
    expected, _ = await collect(engine, asked)
    filler = engine.tokenize("The price of bread has risen again. " * 27, add_bos=True, special=True)
    await collect(engine, Generate(filler, GREEDY, max_tokens=4))
    assert engine.stats()["archived_bytes"] > 0
    tokens, group = await collect(engine, asked)
    assert group.cached_tokens == (group.prompt_tokens or 0) - 1
    parted(expected, tokens, DRIFT)


@pytest.mark.parametrize("family", ["llava-uhd", "gemma3", "qwen2vl"])
async def test_more_pictures_than_cells_all_finish(fresh: Load, family: str) -> None:
    engine = fresh(family, context_size=256, kv_cells=256, parallel=8)
    requests = [ask(engine, "{} What is this?", picture(number, 100, 100), max_tokens=40) for number in range(6)]
    answers = await asyncio.gather(*[collect(engine, request) for request in requests])
    assert all(tokens for tokens, _ in answers)


async def test_resume_goes_on_behind_a_picture(shared: Load) -> None:
    engine = shared("qwen2vl")
    request = ask(engine, "{} What is this?", picture(3), max_tokens=12)
    ids = [token.id for token in (await collect(engine, request))[0]]
    rest, first = await collect(engine, replace(request, resume=ids[:5]))
    assert ids[:5] + [token.id for token in rest] == ids
    assert first.prompt_tokens


# ---- while a projector works -----------------------------------------------------------------------------------------


class Held:
    """A projector's `encode` that a test holds still."""

    def __init__(self, engine: LlamaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
        projector = engine._projector
        assert projector
        self._encode = projector.encode
        self.go_on = threading.Event()
        self.calls = 0
        monkeypatch.setattr(projector, "encode", self)

    def __call__(self, prompt: MediaPrompt, stopped: Callable[[], bool]) -> list[MediaSpan]:
        self.calls += 1
        while not self.go_on.wait(0.005) and not stopped():
            pass
        return self._encode(prompt, stopped)


async def test_others_go_on_while_a_picture_is_encoded(shared: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = shared("llava")
    held = Held(engine, monkeypatch)
    waiting = asyncio.create_task(collect(engine, ask(engine, "{} What?", picture(9))))
    await until(lambda: held.calls == 1)
    assert engine.stats()["queued"] == 1
    tokens, _ = await collect(engine, ask(engine, "What is the capital of France?"))
    assert tokens
    assert not waiting.done()
    held.go_on.set()
    assert (await waiting)[0]
    assert engine.stats()["queued"] == engine.stats()["slots_busy"] == 0


async def test_who_leaves_while_a_picture_is_encoded_is_gone(shared: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = shared("llava")
    held = Held(engine, monkeypatch)
    leaving = asyncio.create_task(collect(engine, ask(engine, "{} What?", picture(10))))
    await until(lambda: held.calls == 1)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await until(lambda: engine.stats()["queued"] == engine.stats()["slots_busy"] == 0)
    held.go_on.set()
    assert (await collect(engine, ask(engine, "{} What?", picture(11))))[0]


async def test_closing_answers_who_waits_for_a_picture(fresh: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fresh("llava")
    held = Held(engine, monkeypatch)
    waiting = [asyncio.create_task(collect(engine, ask(engine, "{} What?", picture(seed)))) for seed in (1, 2)]
    await until(lambda: held.calls == 1 and engine.stats()["queued"] == 2)
    await asyncio.to_thread(engine.close)
    for result in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10):
        assert isinstance(result, EngineError)
    with pytest.raises(EngineError):
        await collect(engine, Generate([], GREEDY, prompt="x", media=[picture(1)]))


async def test_a_picture_is_encoded_once(fresh: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fresh("llava")
    calls: list[int] = []
    encode = mtmd.mtmd_encode_chunk
    monkeypatch.setattr(mtmd, "mtmd_encode_chunk", lambda *args: calls.append(1) or encode(*args))
    for text in ("{} What?", "Now this: {} Why?"):
        await collect(engine, ask(engine, text, picture(1), max_tokens=2))
    assert len(calls) == 1


# ---- limits and mistakes ---------------------------------------------------------------------------------------------


async def test_what_an_engine_reads(models: Path, shared: Load, fresh: Load) -> None:
    assert list(shared("llava").media_markers) == ["image"]
    assert list(shared("ultravox").media_markers) == ["audio"]
    text_only = fresh(None)
    assert text_only.media_markers == {}
    with pytest.raises(InvalidRequest, match="text only"):
        await collect(text_only, Generate([], GREEDY, prompt="x", media=[picture(1)]))
    with pytest.raises(InvalidRequest, match="no audio"):
        await collect(shared("llava"), replace(ask(shared("llava"), "{}", picture(1)), media=[sound(1)]))


@pytest.mark.parametrize(
    ("family", "media"),
    [
        ("llava", Media("image", b"not a picture")),
        ("llava", Media("image", picture(1).data[:200])),
        ("llava", Media("image", b"")),
        ("llava", Media("image", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")),
        ("ultravox", Media("audio", b"RIFF\x00\x00\x00\x00WAVEjunk")),
        ("ultravox", Media("audio", b"")),
        ("ultravox", sound(1, seconds=0)),
        ("ultravox", sound(1, seconds=CONTEXT + 1)),
    ],
)
async def test_a_broken_file_is_the_clients_mistake(shared: Load, family: str, media: Media) -> None:
    engine = shared(family)
    with pytest.raises(InvalidRequest) as caught:
        await collect(engine, ask(engine, "{} What?", media))
    assert caught.value.param == "messages"
    assert (await collect(engine, ask(engine, "{} What?", medium(family, 1), max_tokens=2)))[0]


@pytest.mark.parametrize("family", ["llava", "llava-uhd", "gemma3", "qwen2vl"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (3000, 1), (1, 3000), (2, 2000), (700, 700)])
async def test_pictures_of_odd_shapes(shared: Load, family: str, width: int, height: int) -> None:
    engine = shared(family)
    request = ask(engine, "{} What?", picture(1, width, height), max_tokens=1)
    try:
        tokens, _ = await collect(engine, request)
        assert tokens
    except InvalidRequest as error:
        assert error.param == "messages"  # noqa: PT017 - either is right


async def test_a_prompt_counts_with_its_pictures(shared: Load, fresh: Load) -> None:
    small = fresh("llava", context_size=128)
    with pytest.raises(ContextLengthExceeded, match=r"139 tokens.* 128 "):
        await collect(small, ask(small, "{} and {}", picture(1), picture(2)))
    tokens, only = await collect(small, ask(small, "{}", picture(1), max_tokens=0))
    assert (tokens, only.finish_reason, only.cached_tokens) == ([], "length", 0)
    assert only.prompt_tokens
    assert only.prompt_tokens > 64
    rest = ask(small, "{}", picture(1), max_tokens=None, sampling=replace(GREEDY, ignore_eos=True))
    tokens, first = await collect(small, rest)
    assert len(tokens) + (first.prompt_tokens or 0) == 128


async def test_places_and_media_must_be_as_many(shared: Load) -> None:
    engine = shared("llava")
    request = ask(engine, "{}", picture(1))
    for wrong in (replace(request, media=[picture(1)] * 2), replace(request, prompt="none")):
        with pytest.raises(InvalidRequest) as caught:
            await collect(engine, wrong)
        assert caught.value.param == "messages"


async def test_upstreams_marker_in_a_text_is_text(shared: Load) -> None:
    engine = shared("llava")
    _, group = await collect(engine, ask(engine, "{} <__media__>", picture(1), max_tokens=1))
    assert (group.prompt_tokens or 0) > 64 + 10


async def test_a_picture_that_must_lie_in_one_batch_and_cant(fresh: Load) -> None:
    engine = fresh("gemma3")
    engine._decoder.batch.capacity = 10
    with pytest.raises(EngineError, match=r"parameters\.batch"):
        await collect(engine, ask(engine, "{} What?", picture(1)))


@pytest.mark.parametrize(
    ("weights", "mmproj", "words"),
    [
        ("smollm2.gguf", "gemma3.gguf", r"n_embd = 576.*n_embd = 128"),
        ("smollm2.gguf", "smollm2.gguf", "could not load the projector"),
        ("smollm2.gguf", "missing.gguf", "no file"),
    ],
)
def test_a_projector_of_another_model_fails_in_llama_cpps_own_words(
    models: Path, weights: str, mmproj: str, words: str
) -> None:
    settings = ModelConfig(name="m", parameters=Parameters(model=weights), mmproj=mmproj, context_size=256, threads=1)
    with pytest.raises(ModelLoadFailed, match=f"(?s){words}"):
        LlamaCpp.load(settings, models, lambda fraction: None)
