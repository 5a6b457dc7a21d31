"""What this server is made of."""

from pydantic import BaseModel

from api.schemas.backend import BackendStatus, backend_status
from api.schemas.p2p import NodeData, node_data
from deployments.backends.registry import BACKENDS
from deployments.reports import ModelReport, NodeReport
from deployments.states import State


class LoadedModel(BaseModel):
    id: str
    backend: str
    # Manta's, with `verbose`.
    status: BackendStatus | None = None


class SystemInformation(BaseModel):
    backends: list[str]
    loaded_models: list[LoadedModel]
    # Manta's, with `verbose`.
    nodes: list[NodeData] | None = None


def system_information(models: list[ModelReport], nodes: list[NodeReport] | None = None) -> SystemInformation:
    """`nodes` given: all that is known. Then models that load or have failed are listed, too: their status says so."""
    return SystemInformation(
        backends=sorted(BACKENDS),
        loaded_models=[
            LoadedModel(id=model.name, backend=model.backend, status=None if nodes is None else backend_status(model))
            for model in models
            if nodes is not None or model.state in (State.READY, State.DRAINING)
        ],
        nodes=None if nodes is None else [node_data(node) for node in nodes],
    )
