"""What `benchmarks.chat` asks of every server: scenarios, their prompts, and the request body."""

import random
from dataclasses import dataclass
from typing import Any

WORDS = """
river stone light garden winter paper music window mountain silver letter bridge morning forest color table engine
island market summer shadow village ocean history number doctor picture machine farmer teacher castle pocket
planet corner kitchen yellow travel gentle narrow simple ancient hidden broken golden distant quiet bright heavy
strange little strong early happy future second always between through around beyond against build carry follow
gather listen measure notice protect remember share visit wonder write draw
""".split()  # noqa: SIM905 – a list of one word a line would be all one sees of this file


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    words: int
    """Random words in the prompt; 962 make about 1,000 tokens with the chat template."""
    streams: int
    """At a time."""
    repeats: int = 1
    """How often in a round: one short stream alone is over too soon to time."""

    def prompts(self, round_number: int) -> list[list[str]]:
        """Per repeat, one per stream. No two begin with the same four words: prefix caches find little."""
        dice = random.Random(f"{self.name}, round {round_number}")
        return [
            [f"{' '.join(dice.choices(WORDS, k=self.words))}: a story with these words." for _ in range(self.streams)]
            for _ in range(self.repeats)
        ]


SCENARIOS = (
    Scenario("short x 1", words=16, streams=1, repeats=4),
    Scenario("short x 8", words=16, streams=8),
    Scenario("short x 32", words=16, streams=32),
    Scenario("1,000 tokens x 1", words=962, streams=1),
    Scenario("1,000 tokens x 4", words=962, streams=4),
)


def body(prompt: str, model: str, max_tokens: int) -> dict[str, Any]:
    """Greedy, no penalties, and exactly `max_tokens` long on each of the servers."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": max_tokens,
        "temperature": 0,
        "repeat_penalty": 1.0,  # llama-cpp-python's default is 1.1
        "ignore_eos": True,
        "min_tokens": max_tokens,  # the same, to llama-cpp-python
    }
