"""Made-up requests to a running server for as long as one likes: `make fuzz`."""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import schemathesis

from api.openapi import UNPREFIXED
from tests.fuzzing import AUTHORIZED, config, fuzz
from tests.localai import MODELS
from tests.serving import KEY, Server, serving

EXPECTED = {"expected-statuses": ["2xx", "3xx", "4xx", "503", "504", "507"]}
"""A 5xx that is documented and not 500 is no defect: models are shut down, and galleries named that aren't there."""


def run(server: Server, seconds: int, seed: int) -> set[str]:
    """The first lines of what was found."""
    found: set[str] = set()
    statuses: Counter[int] = Counter()
    deadline = time.monotonic() + seconds
    while (left := round(deadline - time.monotonic())) > 0:
        rules = config(seed=seed, examples=100, seconds=left, not_a_server_error=EXPECTED)
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=rules, headers=AUTHORIZED)
        outcome = fuzz(schema.exclude(operation_id_regex=f"{UNPREFIXED}$"))
        for finding in outcome.findings:
            if (title := finding.partition("\n")[0]) not in found:
                found.add(title)
                say(finding)
        for error in outcome.errors:
            say(f"schemathesis: {error}")
        statuses.update(sum(outcome.statuses.values(), Counter()))
        seed += 1
    say(f"{statuses.total()} answers: {dict(sorted(statuses.items()))}")
    return found


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=900)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    options = parser.parse_args()
    say(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="manta-fuzz-") as folder:
        models = Path(folder) / "models"
        models.mkdir()
        (models / "echo.yaml").write_text(json.dumps([{**model, "backend": "echo"} for model in MODELS]))
        settings = {"API_KEY": KEY, "GALLERIES": "[]", "MANTA_STARTER_MODEL": "", "MANTA_LOAD_FAILURE_COOLDOWN": "1"}
        with serving(Path(folder), **settings) as server:
            found = run(server, options.seconds, options.seed)
    say(f"{len(found)} findings")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
