"""The one module that calls Serve's application API: a loaded model is an application, made and deleted at run time."""

import asyncio
import hashlib
import logging
import re
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ray import get_runtime_context, serve
from ray.serve.api import RunTarget
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from deployments.backends.base import Task
from deployments.config import ModelConfig
from deployments.errors import MantaError
from deployments.placement import actor_options
from deployments.replica import (
    ChatReplica,
    EmbeddingReplica,
    ImageReplica,
    RerankReplica,
    SoundReplica,
    SpeechReplica,
    TranscriptionReplica,
    VadReplica,
)
from deployments.reports import ReplicaReport
from deployments.samples import Snapshot

logger = logging.getLogger("manta.serve_apps")

DEPLOYMENT = "model"
"""Name of the one deployment in a model's application."""
PREFIX = "m-"
"""Of the names of all applications that are models."""
CONTROLLER = "ModelController"

PICKLE_RACE = "is not registered for pickle by value"
"""Making a deployment's config registers a module with cloudpickle, pickles, and unregisters it (ray/serve/config.py,
`_serialize_request_router_cls`). A handle that hears of a config does the same on the event loop's thread: who comes
second finds the module gone. Nothing was deployed then."""
DEPLOY_TRIES = 5

REPLICAS: dict[Task, type] = {
    Task.CHAT: ChatReplica,
    Task.EMBEDDING: EmbeddingReplica,
    Task.RERANK: RerankReplica,
    Task.TRANSCRIPTION: TranscriptionReplica,
    Task.SPEECH: SpeechReplica,
    Task.SOUND: SoundReplica,
    Task.IMAGE: ImageReplica,
    Task.VAD: VadReplica,
}
"""Model type → the class its replicas run."""


@dataclass(slots=True)
class AppStatus:
    running: bool
    failed: bool
    deleting: bool
    message: str
    """Serve's own, of the deployment where it has one."""


def app_name(model: str) -> str:
    """Stable: ever-new names leak memory in Serve's controller (rayserve.md §2.4)."""
    slug = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:40]
    return f"{PREFIX}{slug}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def model_handle(app: str) -> DeploymentHandle:
    """A new handle; the caller keeps it (Serve's own cache evicts at random)."""
    return serve.get_deployment_handle(DEPLOYMENT, app_name=app, _check_exists=False)


class ControllerReporter:
    """What a replica tells the controller of the application `api_app` about its load."""

    def __init__(self, api_app: str, app: str, spec_hash: str) -> None:
        self._api_app, self._app, self._spec_hash = api_app, app, spec_hash

    def loading(self, progress: float) -> None:
        self._controller.report_loading.remote(self._app, self._spec_hash, progress)

    async def ready(self) -> None:
        await self._controller.report_ready.remote(self._app, self._spec_hash)

    async def failed(self, error: MantaError) -> None:
        await self._controller.report_failed.remote(self._app, self._spec_hash, error)

    async def metrics(self, snapshot: Snapshot) -> None:
        await self._controller.report_metrics.remote(snapshot)

    def node(self) -> str:
        node: str = get_runtime_context().get_node_id()
        return node

    @cached_property
    def _controller(self) -> DeploymentHandle:
        return serve.get_deployment_handle(CONTROLLER, app_name=self._api_app, _check_exists=False)


class ServeApps:
    """Models' applications on this cluster. Serve's calls block, so they run in threads."""

    def __init__(self, models_path: str, api_app: str) -> None:
        self._models_path = models_path
        self._api_app = api_app
        self._deploying = threading.Lock()

    async def deploy(self, app: str, config: ModelConfig, task: Task, spec_hash: str) -> None:
        """Ask Serve for the application; it is not up yet when this returns."""
        deploying = asyncio.ensure_future(asyncio.to_thread(self._deploy, app, config, task, spec_hash))
        try:
            await asyncio.shield(deploying)
        except asyncio.CancelledError:
            await deploying  # the thread goes on: only when it is done can the application be deleted
            raise

    def _deploy(self, app: str, config: ModelConfig, task: Task, spec_hash: str) -> None:
        with self._deploying:
            for left in reversed(range(DEPLOY_TRIES)):
                try:
                    serve.run_many([self._target(app, config, task, spec_hash)], wait_for_applications_running=False)
                except ValueError as error:
                    if left == 0 or PICKLE_RACE not in str(error):
                        raise
                else:
                    return

    def _target(self, app: str, config: ModelConfig, task: Task, spec_hash: str) -> RunTarget:
        reporter = ControllerReporter(self._api_app, app, spec_hash)
        replicas = max(1, config.min_replicas or 1)
        deployment = serve.deployment(
            REPLICAS[task],
            name=DEPLOYMENT,
            **actor_options(config),
            max_ongoing_requests=MAX_ONGOING_REQUESTS,
            autoscaling_config={
                "min_replicas": replicas,
                "initial_replicas": replicas,
                "max_replicas": max(replicas, config.max_replicas or 1),
                "target_ongoing_requests": _target_ongoing_requests(config, task),
            },
            health_check_period_s=5,
            health_check_timeout_s=30,
            graceful_shutdown_wait_loop_s=0.2,
            graceful_shutdown_timeout_s=10,
            max_constructor_retry_count=2,
            max_surge_percent=0,  # the old replica must free the GPU before the new one starts
        )
        return RunTarget(
            deployment.bind(config, self._models_path, spec_hash, reporter),
            name=app,
            route_prefix=None,
            logging_config={"encoding": "JSON", "enable_access_log": False},
        )

    async def delete(self, app: str) -> None:
        await asyncio.to_thread(serve.delete, app, _blocking=False)

    async def statuses(self) -> dict[str, AppStatus]:
        """Of all models' applications. O(applications): 0.5 s with 60."""
        status = await asyncio.to_thread(serve.status)
        return {name: _status(overview) for name, overview in status.applications.items() if name.startswith(PREFIX)}

    async def describe(self, app: str) -> list[dict[str, Any]]:
        """What each live replica says of itself (`Replica.describe`)."""
        described: list[dict[str, Any]] = await model_handle(app).broadcast("describe").results_async(timeout_s=5)
        return described

    async def report(self, app: str) -> list[ReplicaReport]:
        """What each live replica tells operators (`Replica.report`)."""
        reports: list[ReplicaReport] = await model_handle(app).broadcast("report").results_async(timeout_s=5)
        return reports


MAX_ONGOING_REQUESTS = 10_000
"""Per replica. High: the engine's own queue is the one that is fair between tenants."""


ONGOING_REQUESTS: dict[Task, float] = {
    Task.EMBEDDING: 32,
    Task.RERANK: 32,
    Task.TRANSCRIPTION: 16,
    Task.SPEECH: 4,
    Task.SOUND: 1,
    Task.IMAGE: 8,
    Task.VAD: 8,
}
"""What autoscaling aims at per replica: where requests are batched the batch that runs and the next one, of a few
inputs each; else what runs at once and, where that takes less than a second or so, what waits for it."""


def _target_ongoing_requests(config: ModelConfig, task: Task) -> float:
    if config.target_ongoing_requests:
        return config.target_ongoing_requests
    return 0.75 * (config.parallel or 1) if task is Task.CHAT else ONGOING_REQUESTS[task]


def _status(overview: Any) -> AppStatus:
    deployments = [d.message for d in overview.deployments.values() if d.message]
    return AppStatus(
        running=overview.status == ApplicationStatus.RUNNING,
        failed=overview.status == ApplicationStatus.DEPLOY_FAILED,
        deleting=overview.status == ApplicationStatus.DELETING,
        message="; ".join(deployments) or overview.message,
    )
