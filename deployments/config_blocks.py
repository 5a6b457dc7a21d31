"""The nested blocks of a model's YAML: `parameters`, `template`, `function`, `diffusers`, `tts`, `download_files`.

Standard library only, like `config`, whose rules on names and docstrings hold here too.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

STRICT: dict[str, Any] = {"extra": "forbid"}
"""Read by pydantic where a file is loaded (`config_file`): an unknown key is an error."""


@dataclass(kw_only=True, slots=True)
class Parameters:
    """`parameters:` — the model file, and what a request may override."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    model: str | None = None
    """File name in the models directory, or what the backend understands (a Hugging Face id, say)."""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    max_tokens: int | None = None
    """0: until an end-of-generation token or the end of the context."""
    n: int | None = None
    """Choices per prompt."""
    echo: bool | None = None
    """Completions repeat the prompt before the answer."""
    batch: int | None = None
    """Tokens per decode step; of an image model, pictures that are denoised together."""
    ignore_eos: bool | None = None
    repeat_penalty: float | None = None
    """0 is LocalAI's "unset"."""
    repeat_last_n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    """-1: a random one per request."""
    logit_bias: dict[int, float] | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    rope_freq_base: float | None = None
    """0: the model's own; so is `rope_freq_scale`."""
    rope_freq_scale: float | None = None

    language: str | None = None
    """Of speech, for requests that name none."""
    translate: bool | None = None
    """Transcriptions are into English, whatever is spoken."""
    n_keep: int | None = None
    tfz: float | None = None
    negative_prompt: str | None = None
    """What images must not show, where the request doesn't say."""
    negative_prompt_scale: float | None = None
    use_fast_tokenizer: bool | None = None
    clip_skip: int | None = None
    """As `diffusers.clip_skip`."""
    tokenizer: str | None = None
    """Directory in the models directory, where the tokenizer isn't that of `model`."""
    encoding_format: str | None = None
    pooling: str | None = None
    """Of embeddings by llama.cpp: mean, cls or last. None: what the GGUF says."""
    pooling_half_life_tokens: float | None = None


@dataclass(kw_only=True, slots=True)
class Template:
    """`template:` — Go templates: the name of a `<name>.tmpl` file in the models directory, or the text itself."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    chat: str | None = None
    """Around the whole conversation; gets `.Input`, the joined messages."""
    chat_message: str | None = None
    """One message; an empty result leaves the message out."""
    completion: str | None = None
    edit: str | None = None
    """Gets `.Input` and `.Instruction`."""
    use_tokenizer_template: bool | None = None
    """Use the model's own Jinja template, whatever else is set."""
    join_chat_messages_by_character: str | None = None
    """What stands between two messages; default a newline."""

    function: str | None = None
    """Instead of `chat`, for requests with tools: it gets `.Functions`, too."""
    image: str | None = None
    video: str | None = None
    audio: str | None = None
    multimodal: str | None = None
    reply_prefix: str | None = None


@dataclass(kw_only=True, slots=True)
class GrammarTrigger:
    """One of `function.grammar.triggers`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    word: str


@dataclass(kw_only=True, slots=True)
class GrammarConfig:
    """`function.grammar:` — the shape of the grammar that is made from tools."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    disable: bool | None = None
    """Calls are free text and looked for afterwards."""
    parallel_calls: bool | None = None
    """An answer may hold an array of calls."""
    disable_parallel_new_lines: bool | None = None
    """No newlines between the calls of an array."""
    mixed_mode: bool | None = None
    """Free text may stand before calls or instead of them."""
    no_mixed_free_string: bool | None = None
    """With `mixed_mode`: instead of them only."""
    expect_strings_after_json: bool | None = None
    """With `mixed_mode`: free text may follow calls, too."""
    prefix: str | None = None
    """Stands before calls, as `<tool_call>` and a newline do."""
    properties_order: str | None = None
    """Names joined by commas: JSON properties that are written first, in this order. Of a call it is the name else."""
    schema_type: Literal["json", "llama3.1"] | None = None
    """llama3.1: calls are `<function=NAME>{…}</function>`."""
    triggers: list[GrammarTrigger] | None = None
    """Text is free until one of these words, after which the prefix and calls come."""
    function_arguments_key: str | None = None
    """Stands here by mistake in LocalAI's gallery (llama3.2-fcall.yaml)."""


@dataclass(kw_only=True, slots=True)
class Replacement:
    """One `{key: regex, value: text}` of `function.replace_…`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    key: str
    value: str = ""


@dataclass(kw_only=True, slots=True)
class XmlFormat:
    """`function.xml_format:` — the texts around each part of a tool call that is written as tags."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    scope_start: str = ""
    """Before one or several calls. It may be missing in an answer."""
    tool_start: str
    """Before the name."""
    tool_sep: str = ""
    """After the name; empty: the name ends with its line, or where the first argument begins."""
    key_start: str = ""
    """Before an argument's name; empty: the arguments are a JSON object."""
    key_val_sep: str = ""
    """After an argument's name."""
    key_val_sep2: str | None = None
    """After `key_val_sep` and white space."""
    val_end: str = ""
    """After an argument's value."""
    last_val_end: str | None = None
    """Another one, which the last argument may have."""
    tool_end: str
    last_tool_end: str | None = None
    """Another one, which the last call may have."""
    scope_end: str = ""
    raw_argval: bool | None = None
    """True: values are texts; False: JSON. None: as the tool's schema says; JSON if they are, where it says nothing."""
    trim_raw_argval: bool = False
    """White space around a value is not part of it. Otherwise one newline is not."""


@dataclass(kw_only=True, slots=True)
class FunctionConfig:
    """`function:` — how tool calls are asked for and read back."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    disable_no_action: bool | None = None
    no_action_function_name: str | None = None
    no_action_description_name: str | None = None
    response_regex: list[str] | None = None
    """Each match is a call, its groups `(?P<name>…)` and `(?P<arguments>…)`."""
    json_regex_match: list[str] | None = None
    """Group 1 of the matches of the first that matches is JSON of calls."""
    replace_function_results: list[Replacement] | None = None
    """Made before calls are looked for."""
    replace_llm_results: list[Replacement] | None = None
    """Made in the answer before those."""
    capture_llm_results: list[str] | None = None
    """Group 1 of the first that matches is the content beside calls."""
    function_name_key: str | None = None
    """Of the JSON of a call; default `name`."""
    function_arguments_key: str | None = None
    """Default `arguments`."""
    return_name_in_function_response: bool | None = None
    grammar: GrammarConfig = field(default_factory=GrammarConfig)
    argument_regex: list[str] | None = None
    """With `response_regex`: each match in the arguments is one, its groups `(?P<key>…)` and `(?P<value>…)`."""
    argument_regex_key_name: str | None = None
    argument_regex_value_name: str | None = None
    xml_format_preset: str | None = None
    """LocalAI's name of a row of `text.tool_formats`."""
    xml_format: XmlFormat | None = None
    automatic_tool_parsing_fallback: bool | None = None
    disable_peg_parser: bool | None = None


@dataclass(kw_only=True, slots=True)
class TagPair:
    """One of `reasoning.tag_pairs`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    start: str
    end: str


@dataclass(kw_only=True, slots=True)
class Reasoning:
    """`reasoning:` — what the model thinks before it answers."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    disable: bool | None = None
    """It stays in the answer, tags and all."""
    strip_reasoning_only: bool | None = None
    """It is thrown away."""
    tag_pairs: list[TagPair] | None = None
    """What it stands between."""
    disable_reasoning_tag_prefill: bool | None = None
    thinking_start_tokens: list[str] | None = None


@dataclass(kw_only=True, slots=True)
class Diffusers:
    """`diffusers:` — image pipelines."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    cuda: bool | None = None
    """LocalAI's older place for `cuda` of the model."""
    pipeline_type: str | None = None
    """A pipeline class of diffusers. None: as the model's files say."""
    scheduler_type: str | None = None
    """A row of `backends.diffusion_schedulers`, or a scheduler class of diffusers. None: the model's own."""
    original_config_file: str | None = None
    """For a checkpoint in one file: a folder with the small files of its pipeline's directory, or the YAML file with
    which it was trained."""
    enable_parameters: str | None = None
    """Names of the arguments, joined by commas, that the pipeline's call may get. None: all that it takes."""
    cfg_scale: float | None = None
    """LocalAI's older place for `cfg_scale` of the model."""
    img2img: bool | None = None
    """The model must be able to start from an image; whether it can, its pipeline says."""
    clip_skip: int | None = None
    """Last layers of the CLIP text encoder that are left out."""
    clip_model: str | None = None
    clip_subfolder: str | None = None
    control_net: str | None = None
    """Directory of a ControlNet in the models directory: an image then steers every picture."""


@dataclass(kw_only=True, slots=True)
class Tts:
    """`tts:` — the default voice."""

    # The YAML key of `vall_e` has a hyphen.
    __pydantic_config__: ClassVar[dict[str, Any]] = {
        **STRICT,
        "alias_generator": lambda name: name.replace("_e", "-e"),
    }

    voice: str | None = None
    """For requests that name none: one of the model's voices."""
    audio_path: str | None = None
    """Audio file in the models directory whose voice is the default, where the model can clone voices."""
    vall_e: dict[str, str] | None = None
    """Its `audio_path` is the older place of the one above."""
    voice_cloning: bool | None = None
    voices: list[dict[str, str]] | None = None


@dataclass(kw_only=True, slots=True)
class DownloadFile:
    """One file of `download_files:`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    filename: str
    uri: str
    sha256: str | None = None
