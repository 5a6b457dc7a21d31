"""The `options:` of models that speak."""

from dataclasses import dataclass

from deployments.backends.options import read_options
from deployments.config import ModelConfig
from deployments.errors import ConfigInvalid


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """See `read`."""

    max_characters: int | None = None
    """Of one request's text; None: no limit (OpenAI's is 4096)."""
    sentence_silence: float = 0.2
    """Seconds of silence between sentences."""
    noise_scale: float | None = None
    """Of VITS (Piper and Coqui): how much the voice varies. None: as the model's files say."""
    noise_w: float | None = None
    """Of VITS: how much the lengths of its sounds vary. None: as the model's files say."""

    @classmethod
    def read(cls, config: ModelConfig) -> "SpeechOptions":
        """Raises ConfigInvalid that names the option."""
        options = read_options(config, KINDS)
        if negative := next((key for key, value in options.items() if not value >= 0), None):
            raise ConfigInvalid(f"{config.name}: options: {negative} must not be less than 0")
        return cls(**options)


KINDS = {"max_characters": int, "sentence_silence": float, "noise_scale": float, "noise_w": float}
