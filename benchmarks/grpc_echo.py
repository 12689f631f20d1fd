"""What gRPC itself costs, with nothing of edgeserve in it: `python benchmarks/grpc_echo.py`.

One bidirectional stream of grpc.aio between two processes, on the event loop that both ends of
edgeserve use; 400 bytes there and back, at once and after silences. It is the floor of a hop.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from edgeserve.wire.loop import run_on_loop

SILENCES_S = (0.0, 0.005, 0.025, 0.075)
ROUNDS = 150


async def serve() -> None:
    async def echo(requests: AsyncIterator[bytes], context: Any) -> None:
        async for request in requests:
            await context.write(request)

    server = grpc.aio.server()
    method: Any = grpc.stream_stream_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("E", {"Echo": method}),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


async def measure(port: int) -> None:
    method: Any = grpc.aio.insecure_channel(f"127.0.0.1:{port}").stream_stream("/E/Echo")
    call = method()
    print("| silence before, ms | round trip, ms |\n|--:|--:|")
    for silence_s in SILENCES_S:
        times_s = []
        for _ in range(ROUNDS):
            await asyncio.sleep(silence_s)
            start_s = time.perf_counter()
            await call.write(b"x" * 400)
            await call.read()
            times_s.append(time.perf_counter() - start_s)
        print(f"| {1e3 * silence_s:g} | {1e3 * statistics.median(times_s):.2f} |")


def main() -> None:
    if sys.argv[1:] == ["serve"]:
        run_on_loop(serve())
        return
    command = [sys.executable, __file__, "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        run_on_loop(measure(int(server.stdout.readline())))
        server.kill()


if __name__ == "__main__":
    main()
