"""Workers and gateways, as for the tests of whole clusters."""

from __future__ import annotations

from tests.cluster.conftest import gateway, workers

__all__ = ["gateway", "workers"]
