"""The diffusers engine on the tiny pipeline of shapes: right pictures, and the same as diffusers' own."""

import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from deployments.backends.base import ImageRequest, Picture
from deployments.backends.diffusers import Diffusers
from deployments.backends.diffusion_schedulers import SCHEDULERS
from deployments.config import ModelConfig
from deployments.config_blocks import Diffusers as Block
from deployments.config_blocks import Parameters
from deployments.errors import ConfigInvalid, EngineError, InvalidRequest, ModelLoadFailed, UnsupportedParameter
from deployments.image import ImageModel
from tests.ldm_checkpoint import save_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
"""NumPy's, of how diffusers' schedulers make arrays of tensors."""

TINY = Path(__file__).parents[1] / "fixtures" / "tiny-sd-shapes"
BLUE, ORANGE = "a blue square on a white background", "an orange square on a white background"
STEPS = 15
ALIKE = 2
"""Of 255: what the order of floating-point sums may change."""

Pixels = NDArray[np.uint8]


def load(models_path: Path = TINY.parent, model: str = TINY.name, **fields: Any) -> Diffusers:
    config = ModelConfig(name="tiny", num_gpus=0, threads=1, **{"parameters": Parameters(model=model), **fields})
    return Diffusers.load(config, models_path, lambda _: None)


def picture(prompt: str = BLUE, seed: int = 1, **fields: Any) -> Picture:
    values: dict[str, Any] = {"width": 64, "height": 64, "steps": STEPS, "guidance": 7.5, "negative_prompt": ""}
    return Picture(prompt=prompt, seed=seed, **{**values, **fields})


def paint(engine: Diffusers, *batch: Picture) -> list[Pixels]:
    painted = engine.paint(batch, step=lambda *_: [True] * len(batch))
    return [image for image in painted if image is not None]


def difference(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def shape_colour(image: Pixels) -> NDArray[np.float64]:
    """Mean of the middle, where the shape is."""
    middle: NDArray[np.float64] = image[24:40, 24:40].mean(axis=(0, 1))
    return middle


def border(image: Pixels) -> float:
    """Mean of the outermost four pixels, where the background is."""
    inside = np.zeros(image.shape[:2], bool)
    inside[4:-4, 4:-4] = True
    return float(image[~inside].mean())


@pytest.fixture(scope="module")
def engine() -> Diffusers:
    return load()


@pytest.fixture(scope="module")
def pipeline() -> Any:
    """Diffusers' own, loaded without us."""
    loaded: Any = diffusers.StableDiffusionPipeline.from_pretrained(TINY, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def directly(pipe: Any, seed: int = 1, **arguments: Any) -> Pixels:
    output = pipe(
        num_inference_steps=STEPS, generator=torch.Generator("cpu").manual_seed(seed), **{"prompt": BLUE, **arguments}
    )
    return np.asarray(output.images[0])


# ---- what is painted -------------------------------------------------------------------------------------------------


def in_batches(engine: Diffusers, prompt: str, count: int = 20) -> list[Pixels]:
    seeds = range(count)
    return [
        image
        for start in seeds[:: engine.batch]
        for image in paint(engine, *(picture(prompt, seed) for seed in seeds[start : start + engine.batch]))
    ]


def test_colours_are_told_apart(engine: Diffusers) -> None:
    blue = [shape_colour(image) for image in in_batches(engine, BLUE)]
    orange = [shape_colour(image) for image in in_batches(engine, ORANGE)]
    assert sum(colour[2] > colour[0] for colour in blue) >= 19
    assert sum(colour[0] > colour[2] for colour in orange) >= 19


def test_backgrounds_are_told_apart(engine: Diffusers) -> None:
    white = [border(image) for image in in_batches(engine, BLUE)]
    black = [border(image) for image in in_batches(engine, BLUE.replace("white", "black"))]
    assert sum(mean > 128 for mean in white) >= 19
    assert sum(mean < 128 for mean in black) >= 19


def test_the_seed_alone_decides_the_picture(engine: Diffusers) -> None:
    first, again, other = (paint(engine, picture(seed=seed))[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert difference(first, other) > 20


@pytest.mark.parametrize("scheduler", [None, "euler_a", "k_dpmpp_2m_sde", "k_dpm_2_a", "lcm"])
def test_batched_equals_alone(scheduler: str | None) -> None:
    engine = load(diffusers=Block(scheduler_type=scheduler))
    batch = [picture(prompt, seed) for seed, prompt in enumerate((BLUE, ORANGE, "a red cross", BLUE))]
    for together, each in zip(paint(engine, *batch), batch, strict=True):
        assert difference(together, paint(engine, each)[0]) <= ALIKE


def test_other_sizes_batched_equal_alone(engine: Diffusers) -> None:
    batch = [picture(seed=seed, width=96, height=40, negative_prompt="cross") for seed in range(3)]
    for together, each in zip(paint(engine, *batch), batch, strict=True):
        assert together.shape == (40, 96, 3)
        assert difference(together, paint(engine, each)[0]) <= ALIKE


# ---- the same as diffusers' own --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({}, {}),
        ({"guidance": 1.0}, {"guidance_scale": 1.0}),
        ({"guidance": 3.0, "negative_prompt": "a cross"}, {"guidance_scale": 3.0, "negative_prompt": "a cross"}),
        ({"width": 80, "height": 48}, {"width": 80, "height": 48}),
    ],
)
def test_text_to_image_equals_the_pipelines_call(
    engine: Diffusers, pipeline: Any, fields: dict[str, Any], arguments: dict[str, Any]
) -> None:
    assert difference(paint(engine, picture(**fields))[0], directly(pipeline, **arguments)) <= ALIKE


@torch.inference_mode()
def test_layers_of_the_text_encoder_can_be_left_out(pipeline: Any) -> None:
    """Against embeddings made by hand: with transformers 5 the pipeline's own `clip_skip` fails."""
    ids = pipeline.tokenizer([BLUE, ""], padding="max_length", return_tensors="pt").input_ids
    encoded = pipeline.text_encoder(ids, output_hidden_states=True)
    before_last = pipeline.text_encoder.final_layer_norm(encoded.hidden_states[-2])
    embeds = {"prompt_embeds": before_last[:1], "negative_prompt_embeds": encoded.last_hidden_state[1:]}
    expected = directly(pipeline, prompt=None, **embeds)
    assert difference(expected, directly(pipeline)) > ALIKE
    for fields in ({"diffusers": Block(clip_skip=1)}, {"parameters": Parameters(model=TINY.name, clip_skip=1)}):
        assert difference(paint(load(**fields), picture())[0], expected) <= ALIKE


def test_image_to_image_and_inpainting_equal_the_pipelines_calls(engine: Diffusers, pipeline: Any) -> None:
    image = paint(engine, picture(ORANGE, 3))[0]
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    over = diffusers.StableDiffusionImg2ImgPipeline(**pipeline.components)
    over.set_progress_bar_config(disable=True)
    expected = directly(over, image=Image.fromarray(image), strength=0.7)
    assert difference(paint(engine, picture(image=image, strength=0.7))[0], expected) <= ALIKE
    inside = diffusers.StableDiffusionInpaintPipeline(**pipeline.components)
    inside.set_progress_bar_config(disable=True)
    expected = directly(inside, image=Image.fromarray(image), mask_image=Image.fromarray(mask), width=64, height=64)
    assert difference(paint(engine, picture(image=image, mask=mask))[0], expected) <= ALIKE


def test_images_batched_equal_alone(engine: Diffusers) -> None:
    images = paint(engine, picture(ORANGE, 3), picture("a green circle", 4))
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    for fields in ({"strength": 0.7}, {"mask": mask}):
        batch = [picture(seed=seed, image=image, **fields) for seed, image in enumerate(images)]
        for together, each in zip(paint(engine, *batch), batch, strict=True):
            assert difference(together, paint(engine, each)[0]) <= ALIKE


@pytest.mark.parametrize(("mask", "kept"), [(0, True), (255, False)])
def test_a_mask_says_what_may_change(engine: Diffusers, mask: int, kept: bool) -> None:
    """Wholly or not at all: this pipeline's decoder makes no picture that is half white and half black."""
    image = paint(engine, picture("an orange square on a black background", 3))[0]
    changed = paint(engine, picture(image=image, mask=np.full((64, 64), mask, np.uint8)))[0]
    assert (np.abs(changed.astype(int) - image).mean() < 8) == kept


# ---- how it is painted -----------------------------------------------------------------------------------------------


def test_steps_are_told_and_can_be_seen(engine: Diffusers) -> None:
    seen: list[tuple[int, int]] = []
    previews: list[Pixels] = []

    def step(done: int, steps: int, preview: Callable[[int], Pixels]) -> Sequence[bool]:
        seen.append((done, steps))
        previews.append(preview(1))
        return [True, True]

    final = engine.paint([picture(seed=1), picture(seed=2)], step=step)[1]
    assert final is not None
    assert seen == [(done, STEPS) for done in range(1, STEPS + 1)]
    apart = [np.abs(shown.astype(int) - final).mean() for shown in previews]
    assert apart[0] > apart[STEPS // 2] > apart[-1]
    assert difference(previews[-1], final) <= ALIKE


def test_painting_ends_when_nobody_wants_it(engine: Diffusers) -> None:
    steps = []

    def step(done: int, *_: Any) -> Sequence[bool]:
        steps.append(done)
        return [False, done < 3]

    assert engine.paint([picture(), picture(seed=2)], step=step) == [None, None]
    assert steps == [1, 2, 3]
    assert paint(engine, picture())[0].shape == (64, 64, 3)


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_every_scheduler_paints(name: str) -> None:
    engine = load(diffusers=Block(scheduler_type=name))
    image = paint(engine, picture(steps=8))[0]
    assert image.shape == (64, 64, 3)
    assert border(image) > 100


def test_arguments_that_are_not_enabled_are_not_passed(engine: Diffusers) -> None:
    plain = paint(engine, picture())[0]
    unskipping = load(diffusers=Block(clip_skip=1, enable_parameters="negative_prompt,num_inference_steps"))
    assert np.array_equal(paint(unskipping, picture())[0], plain)
    bare = load(diffusers=Block(enable_parameters="none"))
    with pytest.raises(UnsupportedParameter, match="negative prompt"):
        paint(bare, picture(negative_prompt="a cross"))


def test_memory_savings_change_nothing(engine: Diffusers) -> None:
    saving = load(options=["attention_slicing:true", "vae_slicing:true", "vae_tiling:true"])
    batch = [picture(seed=seed) for seed in range(2)]
    for one, other in zip(paint(saving, *batch), paint(engine, *batch), strict=True):
        assert difference(one, other) <= ALIKE


def test_defaults_are_the_pipelines(engine: Diffusers) -> None:
    assert (engine.default_width, engine.default_height, engine.multiple) == (64, 64, 8)
    assert (engine.default_steps, engine.default_guidance) == (15, 7.5)
    assert engine.paints_over and engine.inpaints and engine.previews


def test_too_few_steps_for_a_strength_are_refused(engine: Diffusers) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(InvalidRequest, match="at least 5 are needed") as refused:
        paint(engine, picture(image=image, strength=0.2, steps=4))
    assert refused.value.param == "step"
    assert paint(engine, picture(image=image, strength=0.2, steps=5))


# ---- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"scheduler_type": "fastest"}, "schedulers are: ddim"),
        ({"scheduler_type": "FlowMatchEulerDiscreteScheduler"}, "made for DDIMScheduler"),
        ({"pipeline_type": "StableVideoDiffusionPipeline"}, "makes videos"),
        ({"pipeline_type": "NoSuchPipeline"}, "well-known are"),
        ({"pipeline_type": "UNet2DConditionModel"}, "has no pipeline"),
        ({"enable_parameters": "num_steps"}, "known are negative_prompt"),
    ],
)
def test_what_the_config_gets_wrong_is_said(block: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigInvalid, match=words):
        load(diffusers=Block(**block))


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "k_euler"])
def test_schedulers_go_by_their_class_too(name: str) -> None:
    assert paint(load(diffusers=Block(scheduler_type=name)), picture(steps=2))


@pytest.mark.parametrize(
    "name", ["StableDiffusionPipeline", "AutoPipelineForText2Image", "StableDiffusionImg2ImgPipeline"]
)
def test_the_usual_pipeline_types_load_the_same(engine: Diffusers, name: str) -> None:
    assert np.array_equal(
        paint(load(diffusers=Block(pipeline_type=name, img2img=True)), picture())[0], paint(engine, picture())[0]
    )


@pytest.mark.parametrize("beside", [True, False])
def test_a_checkpoint_in_one_file_paints_the_same(
    tmp_path: Path, engine: Diffusers, pipeline: Any, beside: bool
) -> None:
    """With the small files of a pipeline's directory, which one file doesn't hold, around it or named by the config."""
    described = tmp_path / "described"
    shutil.copytree(TINY, described, ignore=shutil.ignore_patterns("*.safetensors"))
    save_checkpoint(pipeline, described / "sd.safetensors" if beside else tmp_path / "sd.safetensors")
    one_file = (
        load(tmp_path, "described")
        if beside
        else load(tmp_path, "sd.safetensors", diffusers=Block(original_config_file="described"))
    )
    assert difference(paint(one_file, picture())[0], paint(engine, picture())[0]) <= ALIKE


def test_broken_weights_are_told_in_the_librarys_words(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "broken")
    (tmp_path / "broken/unet/diffusion_pytorch_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(ModelLoadFailed, match="could not load"):
        load(tmp_path, "broken")


def test_pickled_parts_are_not_loaded_unless_the_config_allows_them(tmp_path: Path, engine: Diffusers) -> None:
    shutil.copytree(TINY, tmp_path / "pickled")
    part = tmp_path / "pickled" / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(part), part.with_suffix(".bin"))
    part.unlink()
    with pytest.raises(ModelLoadFailed, match="could not load"):
        load(tmp_path, "pickled")
    allowed = load(tmp_path, "pickled", options=["allow_pickles:true"])
    assert np.array_equal(paint(allowed, picture())[0], paint(engine, picture())[0])


def test_a_control_net_steers_by_an_image(tmp_path: Path, pipeline: Any) -> None:
    shutil.copytree(TINY, tmp_path / TINY.name)
    diffusers.ControlNetModel.from_unet(pipeline.unet, conditioning_channels=3).save_pretrained(tmp_path / "net")
    engine = load(tmp_path, diffusers=Block(control_net="net"))
    assert engine.paints_over and not engine.inpaints
    assert paint(engine, picture(image=np.zeros((64, 64, 3), np.uint8)))[0].shape == (64, 64, 3)
    with pytest.raises(UnsupportedParameter, match="only changes images"):
        paint(engine, picture())
    with pytest.raises(ModelLoadFailed, match="no directory"):
        load(tmp_path, diffusers=Block(control_net="nothing"))


def test_adapters_change_the_weights_by_their_scale(tmp_path: Path, engine: Diffusers, pipeline: Any) -> None:
    shutil.copytree(TINY, tmp_path / TINY.name)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    layer = pipeline.unet.get_submodule(name).weight
    torch.manual_seed(0)
    down, up = torch.randn(2, layer.shape[1]), torch.randn(layer.shape[0], 2)
    save_file({f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}, tmp_path / "l.safetensors")
    plain = paint(engine, picture())[0]
    changed = {}
    for scale in (0.0, 0.5, 1.0):
        adapted = load(tmp_path, lora_adapter="l.safetensors", lora_scale=scale)
        changed[scale] = difference(paint(adapted, picture())[0], plain)
    assert changed[0.0] <= ALIKE < changed[0.5]
    assert changed[1.0] > ALIKE
    with torch.no_grad():
        kept = layer.clone()
        layer += 0.5 * up @ down
        try:
            expected = directly(pipeline)
        finally:
            layer.copy_(kept)
    twice = load(tmp_path, lora_adapters=["l.safetensors", "l.safetensors"], lora_scales=[0.2, 0.3])
    assert difference(paint(twice, picture())[0], expected) <= ALIKE
    (tmp_path / "l.bin").write_bytes(b"")
    for adapter, words in (("none.safetensors", "no LoRA adapter"), ("l.bin", "is not .safetensors")):
        with pytest.raises(ModelLoadFailed, match=words):
            load(tmp_path, lora_adapter=adapter)


def test_a_closed_engine_says_so() -> None:
    engine = load()
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="unloaded"):
        paint(engine, picture())


# ---- through the deployment ------------------------------------------------------------------------------------------


async def test_n_images_are_those_of_the_seeds_that_follow(engine: Diffusers) -> None:
    model = ImageModel(engine, ModelConfig(name="tiny"), Path())
    together = await model.paint(ImageRequest(prompt=BLUE, n=4, seed=10))
    assert (together.width, together.height, together.seed) == (64, 64, 10)
    for number, image in enumerate(together.images):
        alone = await model.paint(ImageRequest(prompt=BLUE, seed=10 + number))
        assert difference(_pixels(image), _pixels(alone.images[0])) <= ALIKE
    again = await model.paint(ImageRequest(prompt=BLUE, n=4, seed=10))
    assert again.images == together.images


def _pixels(image: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(image)))
