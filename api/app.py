"""The Serve application `api`, which `serve run configs/app.yaml` builds: ingresses, model controller, gallery."""

import logging
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import get_runtime_context, serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from rich.console import Console

from api import ray_env
from api.cluster_handle import ClusterHandle
from api.dispatch import Dispatch
from api.gallery_handle import GalleryHandle
from api.http import create_app
from api.request_log import configure_logging
from api.settings import PROJECT, Settings, load_settings
from api.sole_replica import SoleReplica
from deployments.controller import ModelController
from deployments.lifecycle import ControllerSettings
from deployments.serve_apps import CONTROLLER, ServeApps, app_name

logger = logging.getLogger("manta.app")

INGRESS = "Ingress"
GALLERY = "Gallery"


class Ingress:
    """One of several equal, stateless HTTP front ends."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, controller: DeploymentHandle, gallery: DeploymentHandle
    ) -> None:
        configure_logging(settings.logging_level)
        self._settings = settings
        node = get_runtime_context().get_node_id()
        self._dispatch = Dispatch(controller, settings.request_timeout, node=node)
        self._cluster = ClusterHandle(SoleReplica(controller, "the model controller"))
        self._gallery = GalleryHandle(SoleReplica(gallery, "the gallery"))
        if missing := ray_env.missing():
            logger.warning("slower and less safe than it could be: configs/ray.env was not in force for %s", missing)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._settings, self._dispatch, self._gallery, self._cluster, answers_request_id=False)


class Controller(ModelController):
    """The controller as a Serve deployment."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: ControllerSettings, log_level: str
    ) -> None:
        configure_logging(log_level)
        api_app = serve.get_replica_context().app_name
        super().__init__(settings, ServeApps(settings.models_path, api_app), app_name)
        await self.start()


def build(args: dict[str, Any]) -> Application:
    """`import_path` of configs/app.yaml. Its `args` stay empty: settings come from the environment and server.yaml."""
    # Here, for this module is also that of ingresses and controller, which need nothing of what installs models.
    from api.gallery_replica import GalleryReplica
    from gallery.install import install_starter
    from gallery.progress import shown

    settings = load_settings()
    configure_logging(settings.logging_level)
    settings.log_origins()
    with shown(Console()) as progress:
        install_starter(settings.models_path, settings.starter_model, progress, settings.gallery.downloads())
    controller = serve.deployment(Controller, name=CONTROLLER).bind(
        controller_settings(settings), settings.logging_level
    )
    gallery = serve.deployment(GalleryReplica, name=GALLERY).bind(
        settings.gallery_settings(), controller, settings.blob_settings(), settings.logging_level
    )
    ingress = serve.deployment(serve.ingress()(Ingress), name=INGRESS)
    return ingress.bind(settings, controller, gallery)


def controller_settings(settings: Settings) -> ControllerSettings:
    """The part of the settings that decides about models' lives."""
    aliases = PROJECT / "configs" / "aliases.yaml"
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
