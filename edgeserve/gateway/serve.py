"""The gateway process from start to end: HTTP server, pipeline, and how both stop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext

import uvicorn

from edgeserve.clock import Clock, MonotonicClock
from edgeserve.config import Address, GatewaySettings
from edgeserve.errors import BadSettings
from edgeserve.families.folder import ModelSource
from edgeserve.gateway.app import create_app
from edgeserve.gateway.app_state import AppState, ModelFacts
from edgeserve.gateway.edge.connection import Bounds, server_config
from edgeserve.gateway.edge.keys import read_keys
from edgeserve.gateway.edge.request_context import Tell, log_request
from edgeserve.gateway.observe.progress import LoadDisplay
from edgeserve.gateway.text.chat_template import read_chat_template
from edgeserve.gateway.text.tokenizer import open_tokenizer
from edgeserve.hugging_face.find import find_model
from edgeserve.pipeline.engine import PipelineEngine
from edgeserve.pipeline.lifecycle import Hooks
from edgeserve.wire.loop import keep_what_is_here, run_on_loop, told_to_end

log = logging.getLogger(__name__)

BACKLOG = 1024
LOOPBACK = "127.0.0.1"


def run_gateway(settings: GatewaySettings) -> int:
    """Serves until SIGTERM or SIGINT, then drains. Returns the exit code; raises what prevents the
    start.
    """
    if not settings.workers:
        raise BadSettings("--workers is missing: name every stage's HOST:PORT, in order")
    if not settings.model:
        raise BadSettings(
            "--model is missing: a model folder, org/name on the Hugging Face hub, "
            "a built-in shape, or 'demo'"
        )
    _check_exposure(settings)
    _check_workers(settings)
    source = find_model(settings.model)
    for warning in source.warnings:
        log.warning("%s", warning)
    clock = MonotonicClock()
    with LoadDisplay(source) as display:
        engine = PipelineEngine(
            settings,
            source,
            clock,
            Hooks(planned=display.planned, progress=display.progress),
        )
        state = _state(settings, source, engine, clock)
        with _traced(settings.otlp_endpoint, state.model.name) as tell:
            keep_what_is_here()
            run_on_loop(_serve(settings, state, engine, display, (log_request, *tell)))
    return 0


def _check_exposure(settings: GatewaySettings) -> None:
    """Nothing listens beyond loopback without a key, unless told to."""
    if not settings.listen.is_loopback and not settings.has_keys and not settings.insecure:
        raise BadSettings(
            f"--listen {settings.listen} is open to the network, and there is no key; set "
            "EDGESERVE_API_KEY or --api-key-file, or say --insecure if everybody on this network "
            "may use this gateway"
        )


def _check_workers(settings: GatewaySettings) -> None:
    """What is told of a worker that is this gateway would be hard to understand."""
    own = settings.listen
    for each in settings.workers:
        if each.port == own.port and _settled(each.host) == _settled(own.host):
            raise BadSettings(
                f"--workers: {each} is the address that this gateway listens on, and no worker's; "
                "name the workers, or choose another --listen"
            )


def _settled(host: str) -> str:
    """As far as that can be known without asking for names."""
    return LOOPBACK if host in ("localhost", "0.0.0.0", "::") else host


@contextmanager
def _traced(endpoint: str, model: str) -> Iterator[Sequence[Tell]]:
    if not endpoint:
        yield ()
        return
    try:
        from edgeserve.gateway.observe.otel import open_tracing
    except ImportError as error:
        raise BadSettings(
            f"--otlp-endpoint needs OpenTelemetry's SDK, and there is no {error.name}; say pip "
            "install 'edgeserve[otel]', or leave --otlp-endpoint out"
        ) from None
    with closing(open_tracing(endpoint, model)) as tracing:
        yield (tracing.tell,)


def _state(
    settings: GatewaySettings, source: ModelSource, engine: PipelineEngine, clock: Clock
) -> AppState:
    name, *aliases = settings.served_model_name or (source.name,)
    return AppState(
        engine=engine,
        model=ModelFacts(
            name=name,
            aliases=tuple(aliases),
            weights="random" if source.random_weights else "real",
            context_tokens=source.spec.context_tokens,
            vocab=source.spec.vocab,
            eos_ids=source.eos_ids,
        ),
        tokenizer=open_tokenizer(source.folder, source.spec.vocab),
        chat_template=read_chat_template(source.folder),
        clock=clock,
        keys=read_keys(settings, clock),
        cors_origins=settings.cors_origins,
    )


async def _serve(
    settings: GatewaySettings,
    state: AppState,
    engine: PipelineEngine,
    display: LoadDisplay,
    tell: Sequence[Tell],
) -> None:
    told = told_to_end(settings.until_stdin_closes)
    listener = _listen(settings.listen)
    bounds = Bounds(connections=settings.max_connections)
    server = _Server(server_config(create_app(state, tell), bounds))
    serving = asyncio.create_task(server.serve([listener]))
    watching = asyncio.create_task(state.loop_lag.watch(state.clock))
    ready = engine.start()
    prepared = asyncio.create_task(asyncio.to_thread(state.guides.prepare))
    try:
        await asyncio.wait({ready, told}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()  # raises what prevents the start
            await prepared
            display.ready(f"http://{Address(settings.listen.host, listener.getsockname()[1])}")
            await told
        await engine.drain(settings.drain_timeout)
    finally:
        watching.cancel()
        server.should_exit = True
        await serving
        engine.stop()


class _Server(uvicorn.Server):
    """Signals are this module's: it drains first."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


def _listen(where: Address) -> socket.socket:
    """Taken before anything is loaded, so that a port in use is the first thing to be known."""
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((where.host, where.port))
    except OSError as error:
        listener.close()
        raise BadSettings(
            f"--listen {where}: the port cannot be had ({error.strerror}); is another gateway "
            "using it?"
        ) from None
    listener.listen(BACKLOG)
    return listener
