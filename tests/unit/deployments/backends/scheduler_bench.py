"""A scheduler on a fake decoder: its steps, its time, and what every job gets."""

from typing import Any

from deployments.backends.jobs import Job, Output

SECONDS_PER_TOKEN = 0.002


class SchedulerBench:
    """The subclass makes `decoder` and `scheduler`."""

    decoder: Any
    scheduler: Any

    def __init__(self) -> None:
        self.tokens: dict[Job, list[int]] = {}
        self.ends: dict[Job, str | Exception] = {}
        self._time = 0.0

    @property
    def computed(self) -> int:
        """Tokens of the last batch."""
        raise NotImplementedError

    def add(self, job: Job) -> None:
        self.tokens[job] = []
        self.scheduler.submit(job)

    def step(self) -> list[Output]:
        outputs = list(self.scheduler.step())
        for job, token, finish_reason, error in outputs:
            assert job not in self.ends
            if token is not None:
                self.tokens[job].append(token.id)
            if end := finish_reason or error:
                self.ends[job] = end
        return outputs

    def run(self, most: int = 10_000) -> None:
        for _ in range(most):
            if self.scheduler.idle:
                return
            self.step()
        raise AssertionError("still busy")

    def clock(self) -> float:
        """Every second reading is that of a batch's end."""
        self._time += SECONDS_PER_TOKEN * self.computed
        return self._time
