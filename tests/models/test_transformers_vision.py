"""Pictures in prompts of the transformers engine, on tiny random models, against the library's own `generate`."""

import asyncio
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("llguidance")

from PIL import Image  # noqa: E402

from deployments.backends.base import Generate, Media, Sampling  # noqa: E402
from deployments.backends.torch_device import place  # noqa: E402
from deployments.backends.transformers_loading import LoadedModel  # noqa: E402
from deployments.backends.transformers_text import TransformersText  # noqa: E402
from deployments.config import ModelConfig  # noqa: E402
from deployments.config_blocks import Parameters  # noqa: E402
from deployments.errors import ContextLengthExceeded, InvalidRequest, ModelLoadFailed, UnsupportedParameter  # noqa: E402
from deployments.text.jinja_template import JinjaTemplate  # noqa: E402
from tests.fixtures.tiny_vision import QWEN2_VL_MARKS, make, qwen2_vl  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of processors that do without torchvision
GREEDY = Sampling(temperature=0)
ANSWER = 12
IMAGE, TEXT = {"type": "image"}, {"type": "text", "text": "What is it?"}


def picture(seed: int, width: int, height: int) -> bytes:
    """A PNG of noise."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


PICTURES = (picture(1, 40, 30), picture(2, 64, 32), picture(3, 20, 50))


def opened(pictures: Sequence[bytes]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(one)).convert("RGB") for one in pictures]


def load(directory: Path, **fields: Any) -> TransformersText:
    config = ModelConfig(
        name="m", backend="transformers", threads=1, num_gpus=0, parameters=Parameters(model=directory.name), **fields
    )
    return TransformersText.load(config, directory.parent, lambda fraction: None)


@pytest.fixture(scope="module", params=["idefics3", "llava"])
def directory(request: Any, tmp_path_factory: Any, smollm2_safetensors_path: Path) -> Path:
    return make(request.param, tmp_path_factory.mktemp("models") / request.param, smollm2_safetensors_path)


@pytest.fixture(scope="module")
def engine(directory: Path) -> Iterator[TransformersText]:
    engine = load(directory)
    yield engine
    engine.close()


def prompt(engine: TransformersText, *content: dict[str, str]) -> str:
    assert engine.chat_template
    messages = [{"role": "user", "content": list(content)}]
    return JinjaTemplate(engine.chat_template).render({"messages": messages, "add_generation_prompt": True})


def ask(text: str, *pictures: bytes, **fields: Any) -> Generate:
    return Generate([], GREEDY, ANSWER, prompt=text, media=[Media("image", one) for one in pictures], **fields)


async def answer(engine: TransformersText, request: Generate, delay: float = 0) -> tuple[list[int], int | None]:
    """Ids, and how many the prompt had."""
    await asyncio.sleep(delay)
    groups = [group async for group in engine.generate(request)]
    assert [group.prompt_tokens for group in groups[1:]] == [None] * (len(groups) - 1)
    return [token.id for group in groups for token in group.tokens], groups[0].prompt_tokens


def generated(model: Any, inputs: Any) -> list[int]:
    output = model.generate(**inputs, max_new_tokens=ANSWER, do_sample=False, eos_token_id=2, pad_token_id=0)
    ids: list[int] = output[0][inputs["input_ids"].shape[1] :].tolist()
    return [token for token in ids if token != 2]


async def test_pictures_and_text_side_by_side_say_what_generate_says(engine: TransformersText, directory: Path) -> None:
    assert engine.media_markers == {"image": None}
    one, two = prompt(engine, IMAGE, TEXT), prompt(engine, TEXT, IMAGE, IMAGE)
    plain = engine.tokenize("Hello there my friend", add_bos=True, special=True)
    answers = await asyncio.gather(
        answer(engine, ask(one, PICTURES[0])),
        answer(engine, ask(two, PICTURES[1], PICTURES[2]), 0.02),
        answer(engine, Generate(plain, GREEDY, ANSWER), 0.04),
    )
    model = transformers.AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    processor = transformers.AutoProcessor.from_pretrained(directory)
    inputs = [
        processor(text=[one], images=opened(PICTURES[:1]), return_tensors="pt"),
        processor(text=[two], images=opened(PICTURES[1:]), return_tensors="pt"),
    ]
    expected = [(generated(model, given), given["input_ids"].shape[1]) for given in inputs]
    assert answers == [*expected, (generated(model, {"input_ids": torch.tensor([plain])}), None)]


async def test_the_picture_counts(engine: TransformersText) -> None:
    text = prompt(engine, IMAGE, TEXT)
    one, _ = await answer(engine, ask(text, PICTURES[0]))
    other, _ = await answer(engine, ask(text, picture(9, 40, 30)))
    assert one != other


async def test_an_answer_about_a_picture_is_resumed(engine: TransformersText) -> None:
    request = ask(prompt(engine, IMAGE, TEXT), PICTURES[0])
    whole, _ = await answer(engine, request)
    request.resume = whole[:5]
    rest, _ = await answer(engine, request)
    assert rest == whole[5:]


async def test_what_is_refused(engine: TransformersText) -> None:
    text = prompt(engine, IMAGE, TEXT)
    with pytest.raises(InvalidRequest, match="not an image"):
        await answer(engine, ask(text, b"no picture"))
    with pytest.raises(InvalidRequest, match="refuses these images"):
        await answer(engine, ask(text, *PICTURES[:2]))  # two pictures for one place
    sound = ask(text)
    sound.media = [Media("audio", b"")]
    with pytest.raises(UnsupportedParameter):
        await answer(engine, sound)


async def test_a_picture_that_does_not_fit(directory: Path) -> None:
    engine = load(directory, context_size=24)
    try:
        with pytest.raises(ContextLengthExceeded, match="24"):
            await answer(engine, ask(prompt(engine, IMAGE, TEXT), PICTURES[0]))
    finally:
        engine.close()


# ---- positions in three dimensions -----------------------------------------------------------------------------------


class QwenProcessor:
    """What Qwen2-VL's does to pictures: its own needs torchvision, for videos."""

    def __init__(self, tokenizer: Any, image_processor: Any) -> None:
        self.tokenizer, self.image_processor = tokenizer, image_processor
        self.chat_template = None

    def __call__(self, text: list[str], images: list[Image.Image], **_: Any) -> dict[str, Any]:
        pixels = self.image_processor(images=images, return_tensors="pt")
        written = text[0]
        for grid in pixels["image_grid_thw"]:
            written = written.replace("<|image_pad|>", "<|place|>" * (int(grid.prod()) // 4), 1)
        ids = self.tokenizer(written.replace("<|place|>", "<|image_pad|>"), return_tensors="pt")["input_ids"]
        kinds = (ids == self.tokenizer.convert_tokens_to_ids("<|image_pad|>")).long()
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds, **pixels}


async def test_rows_with_and_without_pictures_keep_their_positions(smollm2_safetensors_path: Path) -> None:
    torch.manual_seed(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2_safetensors_path)
    tokenizer.add_special_tokens({"additional_special_tokens": list(QWEN2_VL_MARKS)})
    model, images = qwen2_vl(tokenizer)
    processor = QwenProcessor(tokenizer, images)
    placement = place(ModelConfig(name="m", threads=1, num_gpus=0))
    engine = TransformersText(LoadedModel(model.eval(), tokenizer, processor, placement), 512, 2048, 8)
    places = "<|vision_start|><|image_pad|><|vision_end|>"
    texts = (f"{places} What is it?", f"Compare {places} with {places} now")
    plain = engine.tokenize("Hello there my friend", add_bos=True, special=True)
    try:
        answers = await asyncio.gather(
            answer(engine, ask(texts[0], PICTURES[0])),
            answer(engine, Generate(plain, GREEDY, ANSWER), 0.02),
            answer(engine, ask(texts[1], *PICTURES[1:]), 0.04),
        )
        resumed, _ = await answer(engine, ask(texts[0], PICTURES[0], resume=answers[0][0][:5]))
        assert resumed == answers[0][0][5:]
        inputs = [processor([texts[0]], opened(PICTURES[:1])), processor([texts[1]], opened(PICTURES[1:]))]
        assert answers[0][0] == generated(model, inputs[0])
        assert answers[1][0] == generated(model, {"input_ids": torch.tensor([plain])})
        assert answers[2][0] == generated(model, inputs[1])
    finally:
        engine.close()


def test_a_processor_that_cannot_be_loaded_is_said(tmp_path: Path, smollm2_safetensors_path: Path) -> None:
    directory = make("llava", tmp_path / "llava", smollm2_safetensors_path)
    (directory / "processor_config.json").write_text("{}")
    for file in directory.glob("preprocessor_config.json"):
        file.unlink()
    with pytest.raises(ModelLoadFailed, match="torchvision"):
        load(directory)
