"""`make bench-speech`: real-time factors of transcription, and how soon a long text is heard.

Our server against faster-whisper and Piper in a process of their own, with the same models, files and number of
threads, in turn, another one first each round. RESULTS.md says how to read the figures.
"""

import argparse
import signal
import tempfile
import wave
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks import report
from benchmarks.servers import ROOT
from benchmarks.speech_runs import SpokenText, Transcribed, tables
from benchmarks.speech_subjects import Library, Manta, Setup, Subject, libraries, manta

CLIPS = Path("/usr/share/pocketsphinx/test/data/librivox")
"""Of Debian's pocketsphinx-testdata: half a minute of a novel, 16 kHz, mono, 16 bits."""
BYTES_PER_S = 32_000
TEXT = " ".join(
    (
        "The harbour was quiet when the first boats came in.",
        "Two men stood on the wall and counted the sails.",
        "A child ran down the steps with a basket of bread.",
        "Nobody had expected the weather to change so soon.",
        "By noon the wind had turned and the sea was grey.",
        "The old lighthouse keeper closed the heavy door behind him.",
        "He lit the lamp and wrote the hour into his book.",
        "Far out a ship answered with a single long signal.",
        "The women on the shore began to sing an old song.",
        "When the storm was over every boat had come home.",
    )
)
"""Ten sentences of about the same length."""


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    files: tuple[Path, ...]
    audio_seconds: float


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server is stopped on the way out
    versions = {name: version(name) for name in ("ray", "faster-whisper", "ctranslate2", "piper-tts", "onnxruntime")}
    conditions = report.circumstances() | {"versions": versions, "rounds": options.rounds}
    with tempfile.TemporaryDirectory(prefix="manta-bench-") as name:
        setup = Setup(options.whisper, options.voice, Path(name), options.threads)
        files = scenarios(Path(name))
        with libraries(setup) as (sequential, batched), manta(setup) as server:
            subjects: list[Subject] = [server, sequential, batched]
            _warm_up(subjects, files)
            heard = list(transcriptions(subjects, files, options.rounds))
            spoken = list(speeches(server, sequential, options.rounds))
    conditions |= {"threads": setup.threads, "whisper": options.whisper.name, "voice": options.voice.stem}
    text = tables(heard, spoken, conditions)
    data = {**conditions, "transcription": [asdict(run) for run in heard], "speech": [asdict(run) for run in spoken]}
    report.write("speech", text, data, options.out)
    print(text)


def scenarios(folder: Path) -> Sequence[Scenario]:
    """One file of a minute, and sixteen clips of 5 s that begin at different places of the same recording."""
    recording = b"".join(_frames(path) for path in sorted(CLIPS.glob("*.wav")))
    recording *= 1 + (90 * BYTES_PER_S) // len(recording)
    minute = _write(folder / "minute.wav", recording[: 60 * BYTES_PER_S])
    clips = [
        _write(folder / f"clip-{place}.wav", recording[place * 2 * BYTES_PER_S :][: 5 * BYTES_PER_S])
        for place in range(16)
    ]
    return Scenario("one file of 60 s", (minute,), 60), Scenario("16 clips of 5 s at once", tuple(clips), 80)


def transcriptions(subjects: Sequence[Subject], files: Sequence[Scenario], rounds: int) -> Iterator[Transcribed]:
    """Rounds of scenarios of subjects, innermost the subjects, each time another one first."""
    for number in range(rounds):
        for place, scenario in enumerate(files):
            first = (number + place) % len(subjects)
            for subject in [*subjects[first:], *subjects[:first]]:
                before = subject.cpu_seconds()
                heard = subject.transcribe(scenario.files)
                after = subject.cpu_seconds()
                cpu = after - before if before is not None and after is not None else None
                factor = heard.seconds / scenario.audio_seconds
                report.say(f"round {number + 1}/{rounds}  {scenario.name:24} {subject.name:18} {factor:.3f}")
                yield Transcribed(
                    number, scenario.name, subject.name, scenario.audio_seconds, heard.seconds, cpu, heard.texts
                )


def speeches(server: Manta, library: Library, rounds: int) -> Iterator[SpokenText]:
    for number in range(rounds):
        streamed = server.speak(TEXT, stream=True)
        whole = server.speak(TEXT, stream=False)
        alone = library.speak(TEXT)
        report.say(f"round {number + 1}/{rounds}  first audio after {streamed.first:.2f} s of {streamed.whole:.2f} s")
        yield SpokenText(number, streamed.first, streamed.whole, whole.first, alone)


def _warm_up(subjects: Sequence[Subject], files: Sequence[Scenario]) -> None:
    """Our server loads its models with the first requests; the voices need a sentence too."""
    for subject in subjects:
        for scenario in files:
            report.say(f"warming up {subject.name}: {scenario.name}")
            subject.transcribe(scenario.files)
        if isinstance(subject, Manta):
            subject.speak(TEXT, stream=True)
        elif isinstance(subject, Library):
            subject.speak(TEXT)


def _frames(path: Path) -> bytes:
    with wave.open(str(path)) as file:
        return bytes(file.readframes(file.getnframes()))


def _write(path: Path, samples: bytes) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(samples)
    return path


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speech", description=__doc__)
    parser.add_argument("--whisper", type=Path, default=ROOT / "models/whisper-tiny-en", help="the model's directory")
    parser.add_argument("--voice", type=Path, default=ROOT / "models/en_US-joe-medium.onnx", help="a Piper voice")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of RESULTS.md and results/")
    options = parser.parse_args()
    for path in (options.whisper / "model.bin", options.voice):
        if not path.is_file():
            parser.error(f"no {path}: `make bench-speech` installs the models, or name others")
    if not CLIPS.is_dir():
        parser.error(f"no {CLIPS}: apt-get install pocketsphinx-testdata")
    return options


if __name__ == "__main__":
    main()
