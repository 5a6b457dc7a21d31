"""faster-whisper and Piper themselves, in a process without a server, for `benchmarks.speech`.

    python -m benchmarks.speech_process WHISPER_DIRECTORY COMPUTE_TYPE VOICE_FILE THREADS

Takes JSON, one line a job: {"transcribe": [paths], "batched": true} or {"speak": text}; answers each by a line with the
seconds it took, and the texts or the seconds of audio.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import onnxruntime
from faster_whisper import BatchedInferencePipeline, WhisperModel
from piper import PiperVoice
from piper.config import PiperConfig

BATCH_SIZE = 8
"""Windows of one file; the pipeline's default."""


class Library:
    """Both engines, loaded."""

    def __init__(self, whisper: str, compute_type: str, voice: str, threads: int) -> None:
        self._whisper = WhisperModel(
            whisper, device="cpu", compute_type=compute_type, cpu_threads=threads, local_files_only=True
        )
        self._batched = BatchedInferencePipeline(self._whisper)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(voice, options, providers=["CPUExecutionProvider"])
        description = json.loads(Path(f"{voice}.json").read_text(encoding="utf-8"))
        self._voice = PiperVoice(session, PiperConfig.from_dict(description))

    def transcribe(self, path: str, *, batched: bool) -> str:
        """The text of a file, in the library's defaults but for the language, which our config names too."""
        if batched:
            segments, _ = self._batched.transcribe(path, language="en", batch_size=BATCH_SIZE)
        else:
            segments, _ = self._whisper.transcribe(path, language="en")
        return "".join(segment.text for segment in segments).strip()

    def speak(self, text: str) -> float:
        """Seconds of audio that the whole text makes."""
        chunks = list(self._voice.synthesize(text))
        return sum(len(chunk.audio_float_array) / chunk.sample_rate for chunk in chunks)

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        if "speak" in job:
            return {"audio_seconds": self.speak(job["speak"])}
        return {"texts": [self.transcribe(path, batched=job["batched"]) for path in job["transcribe"]]}


if __name__ == "__main__":
    library = Library(*sys.argv[1:4], int(sys.argv[4]))
    print("{}", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        answer = library.answer(json.loads(line))
        print(json.dumps({"seconds": time.perf_counter() - started, **answer}), flush=True)
