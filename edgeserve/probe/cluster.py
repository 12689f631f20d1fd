"""What GET /v1/cluster says of the cluster that is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeserve.errors import WireError


@dataclass(frozen=True, kw_only=True)
class Cluster:
    model: str
    dtype: str
    weights: str
    """"real" or "random"."""
    simulation: str | None
    """What has to be said beside every figure; None if all stages compute."""
    pages: int
    page_tokens: int
    stages: tuple[Mapping[str, Any], ...]
    """As they came: the report passes them on."""

    @property
    def kv_tokens(self) -> int:
        return self.pages * self.page_tokens

    @property
    def device(self) -> str:
        """'cuda', or 'cpu+cuda' where the boxes differ."""
        return "+".join(sorted({str(each["device"]) for each in self.stages}))

    @property
    def labels(self) -> tuple[str, ...]:
        """What would make a figure mean something else, were it left out."""
        random = ("weights: random",) if self.weights == "random" else ()
        return (*random, self.simulation) if self.simulation else random

    @property
    def layer_counts(self) -> str:
        """'13/14/13'."""
        return "/".join(str(end - start) for start, end in (s["layers"] for s in self.stages))


def parse_cluster(document: Any) -> Cluster:
    """Raises WireError if it is not what a gateway of this version says."""
    try:
        cluster = Cluster(
            model=str(document["model"]),
            dtype=str(document["dtype"]),
            weights=str(document["weights"]),
            simulation=document["simulation"],
            pages=int(document["pages"]["total"]),
            page_tokens=int(document["pages"]["page_tokens"]),
            stages=tuple(document["stages"]),
        )
        _ = cluster.device, cluster.layer_counts  # they look into the stages
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(
            f"the answer of /v1/cluster cannot be read: {error!r}; is it an edgeserve gateway, "
            "and of the same version as this probe?"
        ) from None
    return cluster
