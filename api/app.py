"""The Serve application `api`, which `serve run configs/app.yaml` builds: ingresses, model controller, gallery."""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import get_runtime_context, serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from rich.console import Console

from api import __version__, ray_env
from api.cluster_handle import ClusterHandle
from api.cross_site import is_loopback
from api.dispatch import Dispatch
from api.forwarded import Front
from api.gallery_handle import GalleryHandle
from api.http import create_app
from api.join_token import require_authentication, require_reachable
from api.keyring import Keyring
from api.metrics_hub import MetricsHub
from api.metrics_store import MetricsStore
from api.quota_keeper import QuotaKeeper
from api.quota_leases import QuotaLeases
from api.quotas import Amounts, Lease, LeaseRequest
from api.records import Records
from api.request_log import configure_logging
from api.settings import PROJECT, Settings, load_settings
from api.sole_replica import SoleReplica
from deployments.controller import ModelController
from deployments.lifecycle import ControllerSettings
from deployments.metrics import BUILD_INFO
from deployments.process_metrics import observe_for_ever
from deployments.samples import Recorder, Samples, Snapshot
from deployments.serve_apps import CONTROLLER, ServeApps, app_name
from deployments.states import Report, Update
from gallery.database import Database

logger = logging.getLogger("manta.app")

INGRESS = "Ingress"
GALLERY = "Gallery"


class Ingress:
    """One of several equal, stateless HTTP front ends."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, controller: DeploymentHandle, gallery: DeploymentHandle, *, guarded: bool
    ) -> None:
        """`guarded`: there were API keys when the server started."""
        configure_logging(settings.logging_level)
        self._settings = settings
        self._keyring = Keyring(settings, guarded=guarded)
        await asyncio.to_thread(self._keyring.refresh)
        self._watching = asyncio.create_task(self._keyring.watch(), name="watch keys")
        node = get_runtime_context().get_node_id()
        self._recorder = Recorder()
        self._observing = asyncio.create_task(observe_for_ever("ingress", node), name="observe process")
        self._cluster = ClusterHandle(
            SoleReplica(controller, "the model controller"),
            self._recorder,
            timeout=settings.request_timeout,
            allow_join=settings.allow_join,
        )
        self._leases = QuotaLeases(self._cluster.lease)
        additions = (self._add_metrics, self._leases.report)
        self._dispatch = Dispatch(controller, settings.request_timeout, node=node, additions=additions)
        self._gallery = GalleryHandle(SoleReplica(gallery, "the gallery"))
        self._front = Front.of(os.environ)
        if self._front is Front.MUTE_HAPROXY:
            logger.warning("X-Forwarded-… is ignored: HAProxy was not started by %s (api/ray_env.py)", ray_env.HAPROXY)
        if missing := ray_env.missing():
            logger.warning("slower and less safe than it could be: configs/ray.env was not in force for %s", missing)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(
            self._settings,
            self._dispatch,
            self._gallery,
            self._cluster,
            keyring=self._keyring,
            leases=self._leases,
            front=self._front,
            answers_request_id=False,
        )

    def _add_metrics(self, report: Report) -> None:
        report.metrics = self._recorder.news()


class Controller(ModelController):
    """The controller as a Serve deployment. What is counted all over the server comes together here."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: ControllerSettings, database_url: str, log_level: str
    ) -> None:
        configure_logging(log_level)
        api_app = serve.get_replica_context().app_name
        super().__init__(settings, ServeApps(settings.models_path, api_app), app_name)
        self._recorder = Recorder()
        self._hub = MetricsHub(MetricsStore(Database(database_url)))
        self._quotas = QuotaKeeper(Records(database_url))
        node = get_runtime_context().get_node_id()
        self._observing = asyncio.create_task(observe_for_ever("controller", node), name="observe process")
        BUILD_INFO.labels(__version__).set(1)
        await self.start()
        self._hub.start()
        # Serve awaits it when the replica is to end. On the instance the interpreter never calls it, unawaited.
        self.__del__ = self._store

    async def sync(self, report: Report) -> Update:
        self._quotas.settle(report.settled)
        for snapshot in (report.metrics, self._recorder.news()):
            if snapshot:
                self._hub.take(snapshot)
        return await super().sync(report)

    async def report_metrics(self, snapshot: Snapshot) -> None:
        """From a process that serves no HTTP."""
        self._hub.take(snapshot)

    async def metrics(self, snapshot: Snapshot) -> Samples:
        """From an ingress that is asked for the metrics: what all have counted. Raises NotReady."""
        self.count_models()
        self._hub.take(snapshot)
        self._hub.take(self._recorder.snapshot())
        return await self._hub.total()

    async def lease(self, request: LeaseRequest) -> Lease:
        """Lend an ingress a part of an API key's quotas."""
        return await self._quotas.lease(request)

    async def quotas_used(self) -> dict[str, Amounts]:
        """Tenant → what its key has used of the last minute."""
        return await self._quotas.used()

    async def _store(self) -> None:
        """What is not stored yet."""
        await asyncio.gather(self._hub.stop(), self._quotas.close())


def build(args: dict[str, Any]) -> Application:
    """`import_path` of configs/app.yaml. Its `args` stay empty: settings come from the environment and server.yaml."""
    # Here, for this module is also that of ingresses and controller, which need nothing of what installs models.
    from api.gallery_replica import GalleryReplica
    from gallery.install import install_starter
    from gallery.progress import shown

    settings = load_settings()
    configure_logging(settings.logging_level)
    settings.log_origins()
    if settings.allow_join:
        require_authentication()
        require_reachable(get_runtime_context().gcs_address)
    keyring = Keyring(settings)
    keyring.refresh()
    if keyring.open and not is_loopback(settings.host):
        logger.warning("no API keys are set: whoever reaches %s may use this server, and change it", settings.address)
    with shown(Console()) as progress:
        install_starter(settings.models_path, settings.starter_model, progress, settings.gallery.downloads())
    controller = serve.deployment(Controller, name=CONTROLLER).bind(
        controller_settings(settings), settings.database, settings.logging_level
    )
    gallery = serve.deployment(GalleryReplica, name=GALLERY).bind(
        settings.gallery_settings(), controller, settings.blob_settings(), settings.logging_level
    )
    ingress = serve.deployment(serve.ingress()(Ingress), name=INGRESS)
    return ingress.bind(settings.without_keys(), controller, gallery, guarded=not keyring.open)


def controller_settings(settings: Settings) -> ControllerSettings:
    """The part of the settings that decides about models' lives."""
    aliases = settings.aliases_file or PROJECT / "configs" / "aliases.yaml"
    return ControllerSettings(
        models_path=str(Path(settings.models_path).absolute()),
        config_file=str(settings.models_config_file) if settings.models_config_file else None,
        aliases_file=str(aliases) if aliases.exists() else None,
        defaults=settings.model_defaults(),
        preload=tuple(settings.preload),
        max_active_models=settings.active_models_limit,
        cooldown=settings.load_failure_cooldown,
        max_cooldown=settings.load_failure_cooldown_max,
    )
