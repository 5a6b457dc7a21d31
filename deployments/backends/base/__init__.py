"""What an engine offers and what crosses a handle: a small Protocol per task, and its request and result types.

Standard-library dataclasses only. They are pickled between processes whose environments may hold other
versions of every package, and engines must import without Ray and without FastAPI.
"""

from deployments.backends.base.embedding import Embedder, EmbedRequest, Vectors
from deployments.backends.base.encoder import Encoder, Tokens
from deployments.backends.base.image import ImageEvent, ImageRequest, ImageResult, Painter, Picture
from deployments.backends.base.model import ModelCard, Progress, Task
from deployments.backends.base.rerank import Reranker, RerankRequest, Scores
from deployments.backends.base.sound import Composer, SoundRequest
from deployments.backends.base.speech import AudioChunk, SpeechRequest, Voice
from deployments.backends.base.text import (
    ChatRequest,
    Choice,
    CompletionRequest,
    Delta,
    DeltaGroup,
    EditRequest,
    TextRequest,
    TextResult,
    TokenizeRequest,
    ToolCallDelta,
    Usage,
)
from deployments.backends.base.text_engine import (
    FinishReason,
    Generate,
    Media,
    Sampling,
    TextEngine,
    Token,
    TokenGroup,
    TokenLogprob,
)
from deployments.backends.base.transcription import (
    Segment,
    SegmentGroup,
    Transcriber,
    Transcription,
    TranscriptionRequest,
    Word,
)
from deployments.backends.base.vad import SpeechSpan, VadRequest, VoiceActivityDetector

__all__ = [
    "AudioChunk",
    "ChatRequest",
    "Choice",
    "CompletionRequest",
    "Composer",
    "Delta",
    "DeltaGroup",
    "EditRequest",
    "EmbedRequest",
    "Embedder",
    "Encoder",
    "FinishReason",
    "Generate",
    "ImageEvent",
    "ImageRequest",
    "ImageResult",
    "Media",
    "ModelCard",
    "Painter",
    "Picture",
    "Progress",
    "RerankRequest",
    "Reranker",
    "Sampling",
    "Scores",
    "Segment",
    "SegmentGroup",
    "SoundRequest",
    "SpeechRequest",
    "SpeechSpan",
    "Task",
    "TextEngine",
    "TextRequest",
    "TextResult",
    "Token",
    "TokenGroup",
    "TokenLogprob",
    "TokenizeRequest",
    "Tokens",
    "ToolCallDelta",
    "Transcriber",
    "Transcription",
    "TranscriptionRequest",
    "Usage",
    "VadRequest",
    "Vectors",
    "Voice",
    "VoiceActivityDetector",
    "Word",
]
