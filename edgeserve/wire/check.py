"""`python -m edgeserve.wire.check HOST:PORT`: exit code 0 if the worker there says it is well. For
container healthchecks.

The standard health service, with the cluster's token, which the generic probes do not send.
"""

from __future__ import annotations

import asyncio
import sys

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edgeserve.config import WorkerSettings, address, read_settings

TIMEOUT_S = 5.0


async def is_serving(target: str, token: str) -> bool:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    async with grpc.aio.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = await stub.Check(  # type: ignore[attr-defined]  # made at run time
                health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S, metadata=metadata
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    here = str(address(sys.argv[1]))
    secret = read_settings(WorkerSettings, "worker", {}).token
    sys.exit(0 if asyncio.run(is_serving(here, secret)) else 1)
