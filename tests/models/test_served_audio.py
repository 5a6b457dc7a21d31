"""Whisper, a Piper voice, MusicGen and Silero VAD behind the running server, used with the official client."""

import io
import re
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
import yaml

from tests.models.conftest import installed
from tests.serving import KEY, PROJECT, Server, eventually

CLIPS = Path("/usr/share/pocketsphinx/test/data/librivox")
"""Of Debian's pocketsphinx-testdata, 16 kHz."""
WHISPER, VOICE, DETECTOR, COMPOSER = "whisper-tiny-en", "voice-en-us-joe-medium", "silero-vad", "musicgen-tiny"
TEXT = "The ships sailed down the river in the early morning."
MIB = 2**20


@pytest.fixture(scope="module", autouse=True)
def _models(server: Server) -> None:
    """The starters as a user's gallery installs them, and a MusicGen that says nothing sensible."""
    for name in (WHISPER, VOICE, DETECTOR):
        for file in installed(name).iterdir():
            if file.suffix != ".yaml":
                (server.models_path / file.name).symlink_to(file)
        config = (installed(name) / f"{name}.yaml").read_text()
        (server.models_path / f"{name}.yaml").write_text(config)
    # In a process of its own: torch would stay in this one, whose memory other tests measure.
    make = f"from tests.models.test_musicgen import make; from pathlib import Path; make(Path({COMPOSER!r}))"
    subprocess.run(
        [sys.executable, "-c", make],
        cwd=server.models_path,
        env={"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=120,
    )
    composer = {
        "name": COMPOSER,
        "backend": "transformers-musicgen",
        "known_usecases": ["sound_generation"],
        "parameters": {"model": COMPOSER},
    }
    (server.models_path / f"{COMPOSER}.yaml").write_text(yaml.safe_dump(composer))
    with server.client() as client:
        client.post("/models/reload")
        eventually(lambda: all(name in client.get("/v1/models").text for name in (WHISPER, VOICE, DETECTOR, COMPOSER)))


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def clip() -> Path:
    return CLIPS / "sense_and_sensibility_01_austen_64kb-0870.wav"


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of all clips, over and over: more than a MiB, which goes by reference."""
    samples = b"".join(frames(path) for path in sorted(CLIPS.glob("*.wav"))) * 4
    path = tmp_path_factory.mktemp("audio") / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(samples[: 60 * 32_000])
    assert path.stat().st_size > MIB
    return path


def frames(path: Path) -> bytes:
    with wave.open(str(path)) as file:
        return bytes(file.readframes(file.getnframes()))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


# ---- transcription ---------------------------------------------------------------------------------------------------


def test_a_clip(client: openai.OpenAI, clip: Path) -> None:
    text = client.audio.transcriptions.create(model=WHISPER, file=clip).text
    assert {"leisure", "consider", "prudently", "power"} <= set(words(text))


def test_times(client: openai.OpenAI, clip: Path) -> None:
    answer = client.audio.transcriptions.create(
        model=WHISPER, file=clip, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    seconds = len(frames(clip)) / 32_000
    assert answer.language == "english"
    assert answer.duration == pytest.approx(seconds, abs=0.05)
    assert answer.words and answer.segments
    assert "".join(segment.text for segment in answer.segments).strip() == answer.text
    assert words(" ".join(word.word for word in answer.words)) == words(answer.text)
    starts = [word.start for word in answer.words]
    assert starts == sorted(starts) and starts[0] >= 0 and answer.words[-1].end <= seconds + 0.1


@pytest.mark.parametrize("response_format", ["text", "srt", "vtt"])
def test_text_formats(client: openai.OpenAI, clip: Path, response_format: str) -> None:
    plain = client.audio.transcriptions.create(model=WHISPER, file=clip).text
    text = client.audio.transcriptions.create(model=WHISPER, file=clip, response_format=response_format)  # type: ignore[call-overload]
    assert words(plain) == [word for word in words(text) if word != "webvtt"]
    assert ("-->" in text) == (response_format != "text")


def test_a_large_file_and_its_stream_have_one_text(client: openai.OpenAI, long_clip: Path) -> None:
    whole = client.audio.transcriptions.create(model=WHISPER, file=long_clip, temperature=0).text
    events = list(client.audio.transcriptions.create(model=WHISPER, file=long_clip, temperature=0, stream=True))
    assert len(words(whole)) > 100
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert events[-1].type == "transcript.text.done"
    assert "".join(deltas) == events[-1].text == whole


def test_what_is_not_audio_is_refused_and_the_replica_stays(
    server: Server, client: openai.OpenAI, clip: Path, tmp_path: Path
) -> None:
    client.audio.transcriptions.create(model=WHISPER, file=clip)
    before = server.replica(WHISPER)
    files = {"noise": np.random.default_rng(0).bytes(2 * MIB), "zeros": bytes(3 * MIB), "text": b"hello " * 100}
    for content in files.values():
        with pytest.raises(openai.BadRequestError) as caught:
            client.audio.transcriptions.create(model=WHISPER, file=("a.wav", content))
        assert caught.value.param == "file"
    assert client.audio.transcriptions.create(model=WHISPER, file=clip).text
    assert server.replica(WHISPER) == before
    assert server.in_flight(WHISPER) == 0


def test_half_a_gigabyte_of_zeros(server: Server, client: openai.OpenAI, clip: Path, tmp_path: Path) -> None:
    """It is refused, the replica stays, and gives back what it took; no ingress has the file mapped any more."""
    client.audio.transcriptions.create(model=WHISPER, file=clip)

    def own_memory() -> int:
        """Bytes of the replica's that no other process shares."""
        found = server.replica(WHISPER)
        assert found
        return int(found.memory_full_info().uss)

    zeros = tmp_path / "zeros.wav"
    with zeros.open("wb") as file:
        file.truncate(500 * MIB)
    before, replica = own_memory(), server.replica(WHISPER)
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(model=WHISPER, file=zeros)
    assert caught.value.param == "file"
    assert own_memory() < before + 50 * MIB
    for ingress in server.processes("ServeReplica:api:Ingress"):
        assert [found.path for found in ingress.memory_maps() if "(deleted)" in found.path and found.rss > MIB] == []
    assert client.audio.transcriptions.create(model=WHISPER, file=clip).text
    assert server.replica(WHISPER) == replica


# ---- speech ----------------------------------------------------------------------------------------------------------


def test_what_is_spoken_is_understood(client: openai.OpenAI) -> None:
    speech = client.audio.speech.create(model=VOICE, voice="alloy", input=TEXT, response_format="mp3").read()
    text = client.audio.transcriptions.create(model=WHISPER, file=("speech.mp3", speech)).text
    assert {"river", "early", "morning"} <= set(words(text)), "word for word, the engines' own tests say"


def test_a_wav_says_its_length(server: Server) -> None:
    with server.client() as client:
        response = client.post("/tts", json={"model": VOICE, "input": TEXT})
        assert response.headers["content-type"] == "audio/x-wav"
        with wave.open(io.BytesIO(response.content)) as file:
            assert 2 < file.getnframes() / file.getframerate() < 6


def test_a_long_text_is_streamed(client: openai.OpenAI) -> None:
    text = " ".join([TEXT] * 10)
    with client.audio.speech.with_streaming_response.create(
        model=VOICE, voice="alloy", input=text, response_format="pcm"
    ) as response:
        assert "content-length" not in response.headers
        sizes = [len(piece) for piece in response.iter_bytes()]
    assert sum(sizes) > 10 * 2 * 16_000
    assert len(sizes) > 5


def test_events(server: Server) -> None:
    body = {"model": VOICE, "input": TEXT, "stream_format": "sse", "response_format": "mp3"}
    with server.client() as client:
        text = client.post("/v1/audio/speech", json=body).text
    assert text.count("speech.audio.delta") >= 1
    assert text.endswith('data: {"type":"speech.audio.done"}\n\ndata: [DONE]\n\n')


def test_elevenlabs_path_with_the_voice_in_it(server: Server) -> None:
    body = {"text": TEXT, "model_id": VOICE}
    with server.client() as client:
        response = client.post(f"/v1/text-to-speech/{VOICE}?output_format=mp3_44100_128", json=body)
        assert response.status_code == 200
        assert response.headers["content-type"] == "audio/mpeg"
        refused = client.post("/v1/text-to-speech/nobody", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "voice"


# ---- voice activity, sound -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeats", [1, 3])
def test_voice_activity(server: Server, clip: Path, repeats: int) -> None:
    """Three times is more than a MiB as float32, and goes by reference."""
    samples = np.frombuffer(frames(clip), "<i2").astype(np.float32) / 32_768
    silence = np.zeros(2 * 16_000, np.float32)
    audio = np.concatenate([silence, samples] * repeats)
    with server.client() as client:
        segments = client.post("/vad", json={"model": DETECTOR, "audio": audio.tolist()}).json()["segments"]
    assert len(segments) >= repeats
    assert 1.8 < segments[0]["start"] < 3
    assert segments[-1]["end"] <= len(audio) / 16_000 + 0.1


def test_sound_generation(server: Server) -> None:
    body = {"model_id": COMPOSER, "text": "rain on a tin roof", "duration_seconds": 1, "seed": 1}
    with server.client() as client:
        first, again = (client.post("/v1/sound-generation", json=body) for _ in range(2))
    assert first.headers["content-type"] == "audio/x-wav"
    with wave.open(io.BytesIO(first.content)) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(1, abs=0.1)
    assert first.content == again.content, "the same seed, the same sound"
