"""What operators are told of a model: the controller's account, and its replicas' own."""

import logging

from deployments.ingresses import Ingresses
from deployments.lifecycle import Apps, Model
from deployments.reports import ModelReport, ReplicaReport
from deployments.states import State

logger = logging.getLogger("manta.reporting")


class Reporting:
    """Puts reports together when they are asked for."""

    def __init__(self, apps: Apps, ingresses: Ingresses) -> None:
        self._apps = apps
        self._ingresses = ingresses

    async def report(self, model: Model, replicas: bool) -> ModelReport:
        """`replicas`: ask them too, which takes up to 5 s where one hangs."""
        name = model.config.name
        told = await self._replicas(model) if replicas else []
        return ModelReport(
            name,
            model.config.backend or "",
            model.state,
            progress=model.progress if model.state is State.LOADING else 0.0,
            error=model.error.message if model.error else "",
            in_flight=self._ingresses.in_flight(name),
            last_used=self._ingresses.last_used(name),
            loaded_at=min((replica.loaded_at for replica in told), default=0.0),
            replicas=told,
        )

    async def _replicas(self, model: Model) -> list[ReplicaReport]:
        if model.state not in (State.READY, State.DRAINING):
            return []
        try:
            return await self._apps.report(model.app)
        except Exception as error:  # noqa: BLE001 – a replica that dies or hangs is no reason to say nothing of the model
            logger.warning("replicas of model %s do not answer: %s", model.config.name, error)
            return []
