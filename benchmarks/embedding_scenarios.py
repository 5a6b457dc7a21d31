"""What `benchmarks.embeddings` asks of everyone: scenarios, and texts that have a given number of tokens."""

import random
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.scenarios import WORDS

SPECIAL_TOKENS = 2
"""[CLS] and [SEP]."""


@dataclass(frozen=True, slots=True)
class Scenario:
    tokens: int
    """Of one input, special tokens included."""
    per_request: int
    """Inputs of one request: 1 as of a chat, 16 as of who fills an index."""
    clients: int
    """At a time; each asks again as soon as it is answered."""
    requests: int
    """Of all clients together, in a round."""

    @property
    def name(self) -> str:
        return f"{self.tokens} x {self.per_request} x {self.clients}"

    @property
    def inputs(self) -> int:
        return self.requests * self.per_request


SCENARIOS = (
    Scenario(8, per_request=1, clients=1, requests=150),
    Scenario(8, per_request=1, clients=32, requests=1000),
    Scenario(8, per_request=1, clients=256, requests=1500),
    Scenario(8, per_request=16, clients=1, requests=60),
    Scenario(8, per_request=16, clients=32, requests=128),
    Scenario(8, per_request=16, clients=256, requests=256),
    Scenario(64, per_request=1, clients=1, requests=50),
    Scenario(64, per_request=1, clients=32, requests=256),
    Scenario(64, per_request=1, clients=256, requests=512),
    Scenario(64, per_request=16, clients=1, requests=10),
    Scenario(64, per_request=16, clients=32, requests=64),
    Scenario(256, per_request=1, clients=1, requests=16),
    Scenario(256, per_request=1, clients=32, requests=64),
    Scenario(256, per_request=1, clients=256, requests=256),
    Scenario(256, per_request=16, clients=1, requests=3),
)
"""16 long inputs from many clients at once are left out: a round of them takes minutes, and their batches are those of
one long input from each."""

AT_REST = SCENARIOS[0]


class Texts:
    """Texts of random words, each of which is one token to the model."""

    def __init__(self, model: Path) -> None:
        """`model`: its directory, with a tokenizer.json."""
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._words = [word for word in WORDS if len(tokenizer.encode(word).ids) == 1 + SPECIAL_TOKENS]

    def make(self, scenario: Scenario, round_number: int) -> list[list[str]]:
        """Those of each request. No other scenario or round has the same: nothing is gained by a cache."""
        dice = random.Random(f"{scenario.name}, round {round_number}")
        size = scenario.tokens - SPECIAL_TOKENS
        return [
            [" ".join(dice.choices(self._words, k=size)) for _ in range(scenario.per_request)]
            for _ in range(scenario.requests)
        ]
