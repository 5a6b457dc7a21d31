"""The machines of the cluster, in LocalAI's words for its federation."""

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deployments.reports import NodeReport

Service = Literal["worker", "federated"]


class NodeData(BaseModel):
    """One machine."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    """Ray's."""
    name: str
    """Host name."""
    tunnel_address: str = Field(serialization_alias="tunnelAddress")
    """IP address."""
    service_id: Service = Field(serialization_alias="serviceID")
    """What it is there for: worker, it runs models; federated, it answers HTTP too."""
    last_seen: datetime = Field(serialization_alias="lastSeen")
    # Manta's.
    resources: dict[str, float]
    """CPU, GPU, memory (bytes), … in all."""
    available: dict[str, float]
    """Of them, what nothing is set aside for."""


class P2PNodes(BaseModel):
    nodes: list[NodeData]
    federated_nodes: list[NodeData]


def p2p_nodes(nodes: list[NodeReport]) -> P2PNodes:
    return P2PNodes(
        nodes=[node_data(node, "worker") for node in nodes],
        federated_nodes=[node_data(node, "federated") for node in nodes if node.ingress],
    )


def node_data(node: NodeReport, service: Service | None = None) -> NodeData:
    """`service`: what it is listed for; by itself, the most that it does."""
    return NodeData(
        id=node.id,
        name=node.name,
        tunnel_address=node.address,
        service_id=service or ("federated" if node.ingress else "worker"),
        last_seen=datetime.fromtimestamp(node.last_seen, UTC),
        resources=node.resources,
        available=node.available,
    )
