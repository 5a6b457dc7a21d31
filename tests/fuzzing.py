"""Requests made up from the OpenAPI document by schemathesis, and what is wrong with the answers to them."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.engine import events, from_schema
from schemathesis.schemas import BaseSchema

from tests.serving import KEY

AUTHORIZED = {"Authorization": f"Bearer {KEY}"}

SHADOWED = {"include-path-regex": "^/models/", "checks": {"allow_header_conformance": {"enabled": False}}}
"""GET goes to `/models/{model}` where these have no GET of their own, and `Allow` says so."""

OFF = {"enabled": False}
NEVER = {
    "positive_data_acceptance": OFF,  # a schema can't say all that makes a request right
    "negative_data_rejection": OFF,  # unknown fields pass, and `5.0` is an integer
}
"""Checks that ask for more than is promised. All others hold: no 5xx, no status, header or media type that is not in
the document, bodies of their schemas, 405 for other methods, 401 without the key, …"""


def config(*, seed: int, examples: int, seconds: int | None = None, **checks: Mapping[str, Any]) -> schemathesis.Config:
    """`examples` of each operation, beside those at the limits of its schema; the same ones each time.

    `seconds`: others each time, until that is over. `checks`: instead of the usual ones.
    """
    return schemathesis.Config.from_dict(
        {
            "seed": seed,
            "headers": AUTHORIZED,
            "continue-on-failure": True,
            "max-stream-events": 1000,
            "request-timeout": 60,
            "warnings": False,
            "cache": OFF,
            "operations": [SHADOWED],
            "phases": {"stateful": OFF},
            "checks": {**NEVER, **checks},
            "generation": {
                "mode": "all",
                "max-examples": examples,
                "deterministic": seconds is None,
                "database": "none",
                "no-shrink": True,
                "allow-x00": True,
            },
            **({"max-time": seconds} if seconds else {}),
        }
    )


@dataclass
class Outcome:
    """What came of a run."""

    findings: list[str] = field(default_factory=list)
    """What is wrong, each with the request that shows it."""
    errors: list[str] = field(default_factory=list)
    """What schemathesis itself could not do."""
    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """Operation → how often it answered with each status."""


def fuzz(schema: BaseSchema) -> Outcome:
    """Send what can be made up from the document, one request after another."""
    outcome = Outcome()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            recorder = event.recorder
            answers = (interaction.response for interaction in recorder.interactions.values())
            outcome.statuses[recorder.label].update(answer.status_code for answer in answers if answer)
            failed = (check.failure_info for checks in recorder.checks.values() for check in checks)
            outcome.findings += [f"{recorder.label}: {it.failure}\n{it.code_sample}" for it in failed if it]
        elif isinstance(event, events.NonFatalError):
            outcome.errors.append(f"{event.label}: {event.info.format()}")
        elif isinstance(event, events.FatalError):
            raise event.exception
    return outcome
