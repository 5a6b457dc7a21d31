"""Measured runs of `benchmarks.speech` as Markdown tables."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import markdown, report

OURS = "manta"
TRANSCRIPTION_AIM = 0.95
"""Of each way of faster-whisper: its time by ours."""
FIRST_AUDIO_AIM = 0.2
"""Time to the first byte of audio, of the time in which Piper alone speaks the whole text; at most."""
COLUMNS = ("transcription", "who", "real-time factor", "CPU s/audio s", "words unlike ours", "its time ÷ Manta's")


@dataclass(slots=True)
class Transcribed:
    """One scenario put to one subject in one round."""

    round: int
    scenario: str
    subject: str
    audio_seconds: float
    seconds: float
    cpu_seconds: float | None
    texts: list[str]


@dataclass(slots=True)
class SpokenText:
    """The text, spoken as it is made, and whole, in one round. Seconds."""

    round: int
    first: float
    """Streamed: to the first byte of audio."""
    last: float
    """Streamed: to the last."""
    whole: float
    """By our server, at once: to the first byte, which comes when all is spoken."""
    library: float
    """By Piper alone."""


def tables(heard: Sequence[Transcribed], spoken: Sequence[SpokenText], conditions: Mapping[str, Any]) -> str:
    """The Markdown that goes into RESULTS.md."""
    return "\n\n".join((_headline(conditions), _transcription(heard), _speech(spoken)))


def _headline(conditions: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in conditions["versions"].items())
    models = f"{conditions['whisper']}, {conditions['voice']}"
    return (
        f"{report.headline(conditions)} {models}, {conditions['threads']} thread, {conditions['rounds']} rounds. "
        f"{versions}."
    )


# ---- transcription ---------------------------------------------------------------------------------------------------


def _transcription(heard: Sequence[Transcribed]) -> str:
    rows = []
    subjects = dict.fromkeys(run.subject for run in heard)
    for scenario in dict.fromkeys(run.scenario for run in heard):
        runs = [run for run in heard if run.scenario == scenario]
        ours = [run for run in runs if run.subject == OURS]
        rows += [_row([run for run in runs if run.subject == subject], ours) for subject in subjects]
    return markdown.table(COLUMNS, "llrrrl", rows)


def _row(runs: Sequence[Transcribed], ours: Sequence[Transcribed]) -> list[str]:
    cpu = [run.cpu_seconds / run.audio_seconds for run in runs if run.cpu_seconds is not None]
    unlike = statistics.mean(
        word_error_rate(mine, its)
        for a, b in zip(ours, runs, strict=True)
        for mine, its in zip(a.texts, b.texts, strict=True)
    )
    return [
        runs[0].scenario,
        runs[0].subject,
        f"{statistics.median(run.seconds / run.audio_seconds for run in runs):.3f}",
        f"{statistics.median(cpu):.3f}" if cpu else "",
        "" if runs[0].subject == OURS else f"{unlike:.1%}",
        "" if runs[0].subject == OURS else _ratio([b.seconds / a.seconds for a, b in zip(ours, runs, strict=True)]),
    ]


def _ratio(ratios: Sequence[float]) -> str:
    """The median over the rounds, the worst and the best round, and the aim."""
    met = statistics.median(ratios) >= TRANSCRIPTION_AIM
    return f"{markdown.spread(ratios)}, aim {TRANSCRIPTION_AIM:g}: {markdown.verdict(met)}"


def word_error_rate(reference: str, text: str) -> float:
    """Words to insert, delete or replace, by the words of the reference (Levenshtein's distance). Case counts not."""
    wanted, found = reference.lower().split(), text.lower().split()
    row = list(range(len(found) + 1))
    for place, word in enumerate(wanted, 1):
        diagonal, row[0] = row[0], place
        for column, other in enumerate(found, 1):
            diagonal, row[column] = row[column], min(
                row[column] + 1, row[column - 1] + 1, diagonal + (word != other)
            )  # fmt: skip
    return row[-1] / max(1, len(wanted))


# ---- speech ----------------------------------------------------------------------------------------------------------


def _speech(spoken: Sequence[SpokenText]) -> str:
    seconds = {
        "first audio, streamed": [run.first for run in spoken],
        "last audio, streamed": [run.last for run in spoken],
        "first audio, not streamed": [run.whole for run in spoken],
        "Piper alone, the whole text": [run.library for run in spoken],
    }
    ratios = [run.first / run.library for run in spoken]
    verdict = markdown.verdict(statistics.median(ratios) < FIRST_AUDIO_AIM)
    rows = [(name, markdown.spread(times)) for name, times in seconds.items()]
    return (
        f"{markdown.table(('speech, ten sentences', 's'), 'lr', rows)}\n\n"
        f"First audio ÷ Piper alone: {markdown.spread(ratios)}, aim under {FIRST_AUDIO_AIM:g}: {verdict}."
    )
