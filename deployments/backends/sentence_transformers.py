"""The `sentence-transformers` engines: embeddings and relevance scores by transformer encoders, on torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from deployments.backends.base import Progress, Tokens
from deployments.backends.encoder_tokenizer import EncoderTokenizer
from deployments.backends.model_directory import find_directory, is_cross_encoder
from deployments.backends.padding import Padding
from deployments.backends.torch_device import Placement, place
from deployments.backends.torch_encoder import LoadedEncoder, TorchEncoder
from deployments.config import ModelConfig
from deployments.errors import ConfigInvalid, ModelLoadFailed

TYPES = ("AutoModel", "AutoModelForSequenceClassification", "SentenceTransformer", "cross-encoder")
"""LocalAI's `type`s of models that these engines run; which of them a model is, its directory says."""
UNLIMITED = 8192
"""Tokens of one input of a model that neither counts positions nor names a limit."""
NO_LIMIT = 10**9
"""Tokenizers without a limit say 10**30."""
POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken", "max": "max"}
"""`parameters.pooling` → the library's name, instead of what the model's files say."""
OWN_POOLING = (None, "", "backend")

transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


class SentenceEmbedder(TorchEncoder):
    """Embeds texts as `SentenceTransformer.encode` does. Implements `base.Embedder`."""

    cross_encoder = False
    """As a reranker: by the cosine of query and document."""

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> "SentenceEmbedder":
        """Blocking; nothing comes from the network. A directory without `modules.json` gets mean pooling.

        Raises ConfigInvalid, and ModelLoadFailed in the library's own words.
        """
        engine = cls(_load(SentenceTransformer, config, find_directory(config, models_path)))
        progress(0.9)
        engine.warm_up()
        progress(1.0)
        return engine

    def __init__(self, loaded: LoadedEncoder) -> None:
        model: Any = loaded.model
        super().__init__(loaded, width=model.get_embedding_dimension())

    def tokenize(self, inputs: Sequence[str | Sequence[int]], *, truncate: bool) -> list[Tokens]:
        return self._tokenizer.tokenize(inputs, truncate=truncate)

    def _rows(self, model: torch.nn.Module, features: dict[str, Any]) -> torch.Tensor:
        rows: torch.Tensor = model(features)["sentence_embedding"]
        return rows[:, : self.width]  # a model's `truncate_dim` is no module of it


class SentenceReranker(TorchEncoder):
    """Scores pairs as `CrossEncoder.predict` does. Implements `base.Reranker`."""

    cross_encoder = True

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> "SentenceReranker | SentenceEmbedder":
        """A cross-encoder, or an embedder where the model is none. Else as `SentenceEmbedder.load`."""
        directory = find_directory(config, models_path)
        if not is_cross_encoder(directory):
            return SentenceEmbedder.load(config, models_path, progress)
        engine = cls(_load(CrossEncoder, config, directory))
        progress(0.9)
        engine.warm_up()
        progress(1.0)
        return engine

    def __init__(self, loaded: LoadedEncoder) -> None:
        model: Any = loaded.model
        if model.num_labels != 1:
            raise ModelLoadFailed(f"the model has {model.num_labels} labels; a reranker has one, the relevance")
        super().__init__(loaded, width=1)

    def tokenize_pairs(self, query: str, documents: Sequence[str], *, truncate: bool) -> list[Tokens]:
        return self._tokenizer.tokenize_pairs(query, documents, truncate=truncate)

    def _rows(self, model: torch.nn.Module, features: dict[str, Any]) -> torch.Tensor:
        activation: Any = model.activation_fn
        scores: torch.Tensor = activation(model(features)["scores"].float())
        return scores


def _load(library: type[SentenceTransformer | CrossEncoder], config: ModelConfig, directory: Path) -> LoadedEncoder:
    """The model, and its inputs as its tokenizer's files say."""
    if config.type is not None and config.type.lower() not in map(str.lower, TYPES):
        raise ConfigInvalid(f"{config.name}: type is {config.type!r}; this backend runs {', '.join(TYPES)}")
    placement = place(config)
    model = _open(library, config, directory, placement)
    _set_pooling(model, config)
    tokenizer: Any = model[0].tokenizer
    encoder_tokenizer = EncoderTokenizer(
        tokenizer.backend_tokenizer,
        _max_length(model[0], config),
        prompt=model.prompts.get(model.default_prompt_name) or "",
        keep_end=tokenizer.truncation_side == "left",
    )
    padding = Padding(
        tokenizer.pad_token_id or 0, left=tokenizer.padding_side == "left", second_type=encoder_tokenizer.second_type
    )
    constants: dict[str, Any] = {"modality": "text"}
    if encoder_tokenizer.prompt_length:
        constants["prompt_length"] = encoder_tokenizer.prompt_length
    inputs = frozenset(tokenizer.model_input_names)
    return LoadedEncoder(model, encoder_tokenizer, padding, placement, inputs, constants)


def _open(
    library: type[SentenceTransformer | CrossEncoder], config: ModelConfig, directory: Path, placement: Placement
) -> Any:
    """The library's model, whose first module is a Transformer that reads texts through a fast tokenizer."""
    try:
        model: Any = library(
            str(directory),
            device=str(placement.device),
            local_files_only=True,
            trust_remote_code=bool(config.trust_remote_code),
            model_kwargs={"dtype": placement.dtype, "use_safetensors": True},
        )
    except Exception as error:
        raise ModelLoadFailed(f"{config.name}: sentence-transformers could not load {directory}: {error}") from error
    transformer = model.eval()[0]
    if not isinstance(transformer, Transformer) or "text" not in transformer.modality_config:
        raise ModelLoadFailed(f"{config.name}: {directory} holds no text encoder but a {type(transformer).__name__}")
    if "message" in transformer.modality_config:
        raise ModelLoadFailed(
            f"{config.name}: {directory} takes chat messages, not texts; a modules.json of sentence-transformers makes "
            "a text encoder of it"
        )
    tokenizer = transformer.tokenizer
    if tokenizer is None or not tokenizer.is_fast:
        raise ModelLoadFailed(f"{config.name}: {directory} has no fast tokenizer (tokenizer.json)")
    return model


def _set_pooling(model: torch.nn.Sequential, config: ModelConfig) -> None:
    wanted = config.parameters.pooling
    if wanted in OWN_POOLING:
        return
    if wanted not in POOLINGS:
        raise ConfigInvalid(f"{config.name}: parameters.pooling is {wanted!r}; known are {', '.join(POOLINGS)}")
    pooling = next((module for module in model if isinstance(module, Pooling)), None)
    if pooling is None or not isinstance(pooling.pooling_mode, str):
        raise ConfigInvalid(f"{config.name}: parameters.pooling is {wanted!r}, but this model doesn't pool in one way")
    pooling.pooling_mode = POOLINGS[wanted]


def _max_length(transformer: Transformer, config: ModelConfig) -> int:
    """The least of what the model's files say, what its table of positions holds, and the config's `context_size`."""
    limits = (transformer.max_seq_length, _positions(transformer), config.context_size)
    return min((limit for limit in limits if limit is not None and limit < NO_LIMIT), default=UNLIMITED)


def _positions(model: torch.nn.Module) -> int | None:
    """Positions that the model has embeddings for. RoBERTa and its kin count from the padding's id on."""
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding):
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return None
