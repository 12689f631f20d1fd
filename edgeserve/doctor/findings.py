"""What would go wrong at start, and the cure: one sentence each, from what was seen.

Pure: it looks at nothing itself. A fault is what prevents a start, or makes one pointless, and has
a cure. The limits, and why they are what they are:

* A token's 10 KB there and back after a pause: 5 ms. A 13B model's token visits each worker once,
  and a gigabit switch takes about 1 ms of it, cores that wake up included; 5 ms is a radio link, a
  port at 100 Mbit/s with others on it, or a box that is busy with something else.
* A prompt's 1.3 MB: 22.5 MB/s one way. A third of a 13B model takes 2 x 4.3 G x 128 FLOP for 128
  tokens, 58 ms of an RTX 3060 at 19 TFLOP/s; a link below that holds prompts up. 100 Mbit/s does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from edgeserve import __version__
from edgeserve.doctor.examined import Answered, Examined, Here, Silent
from edgeserve.doctor.link import PROMPT_BYTES, PROMPT_TOKENS, Link
from edgeserve.errors import EdgeserveError, Unauthorized
from edgeserve.gpu import NONE, NvidiaDriver, torch_of, why_not_usable
from edgeserve.plan.amount import amount
from edgeserve.plan.facts import Plan

HOP_S_MAX = 5e-3
PROMPT_BYTES_PER_S_MIN = 22.5e6


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`is_fault` fails the verdict; the others are good to know."""

    is_fault: bool
    text: str


def judge(seen: Examined) -> tuple[Finding, ...]:
    """Faults first."""
    answered = seen.answered
    found = [
        *_here(seen.here),
        *_workers(seen),
        *_doubles(answered),
        *_held(answered),
        *_plan(seen),
        *map(_note, seen.warnings),
    ]
    return tuple(sorted(found, key=lambda each: not each.is_fault))


def _here(here: Here) -> Iterator[Finding]:
    if here.is_gateways:
        yield from _exposed_gateway(here)
    else:
        yield from _exposed_worker(here)
        yield from _device(here)
        yield from _memory(here)


def _exposed_gateway(here: Here) -> Iterator[Finding]:
    settings = here.as_gateway
    if not (settings.listen.is_loopback or settings.has_keys or settings.insecure):
        yield _fault(
            f"a gateway would listen on {settings.listen}, open to the network, without a key, and "
            "so refuse to start; set EDGESERVE_API_KEY, or say --insecure"
        )


def _exposed_worker(here: Here) -> Iterator[Finding]:
    settings = here.as_worker
    if not (settings.listen.is_loopback or settings.token or settings.insecure):
        yield _fault(
            f"a worker would listen on {settings.listen}, open to the network, without a token, "
            "and so refuse to start; set EDGESERVE_TOKEN to the same secret on every box, or say "
            "--insecure"
        )


def _device(here: Here) -> Iterator[Finding]:
    if here.torch.version == NONE:
        yield _fault(
            "PyTorch is not installed, so no worker can run on this box; install edgeserve[worker]"
        )
    elif here.may_take_gpu:
        yield from _gpu(here)


def _gpu(here: Here) -> Iterator[Finding]:
    driver = here.driver
    why_not = why_not_usable(driver, here.torch)
    if why_not:
        yield _fault(why_not)
    elif here.gpu is None:
        yield from _no_gpu(driver, is_wanted=here.as_worker.device == "cuda")
    if here.why_no_kernels:
        yield _fault(here.why_no_kernels)


def _no_gpu(driver: NvidiaDriver, *, is_wanted: bool) -> Iterator[Finding]:
    """None is shown, and neither driver nor PyTorch is to blame."""
    if driver.is_there and not driver.is_hidden and not driver.said:
        yield _note("nvidia-smi is not found: which GPU a worker here would take is not known")
    elif driver.is_there and not driver.is_hidden:
        yield _fault(
            f"this box has NVIDIA driver {driver.version}, and nvidia-smi shows no GPU"
            f"{_said(driver)}, so a worker would not start; mend that, or say --device cpu"
        )
    elif is_wanted and driver.is_hidden:
        yield _fault(
            "a worker here is told to take a GPU, and CUDA_VISIBLE_DEVICES hides all of them; "
            "unset it, or say --device cpu"
        )
    elif is_wanted:
        yield _fault(
            f"a worker here is told to take a GPU, and nvidia-smi shows none{_said(driver)}; "
            "install NVIDIA's driver, or say --device cpu"
        )
    elif driver.said:
        yield _note(
            f"a worker here would compute on the CPU: nvidia-smi shows no GPU{_said(driver)}"
        )


def _said(driver: NvidiaDriver) -> str:
    return f" ({driver.said})" if driver.said else ""


def _memory(here: Here) -> Iterator[Finding]:
    if here.box.memory_limit_bytes and not here.gpu:
        yield _note(
            f"a process here may have {amount(here.box.memory_limit_bytes)} of memory, by the "
            "limit of its container or session; the machine has more"
        )


def _workers(seen: Examined) -> Iterator[Finding]:
    for each in seen.workers:
        if isinstance(each, Silent):
            yield _fault(_why_silent(each, seen.here))
        else:
            yield from _version(each)
            yield from _unused_gpu(each)
            yield from _link(each)
    links = [each.link for each in seen.answered if isinstance(each.link, Link)]
    if links:
        cost_ms = sum(link.idle_round_trip_s for link in links) * 1e3
        yield _note(
            f"each token of a 13B model would spend {cost_ms:.1f} ms on {_counted(len(links))}"
        )


def _counted(links: int) -> str:
    return "the link to this worker" if links == 1 else f"the links to these {links} workers"


def _why_silent(silent: Silent, here: Here) -> str:
    if isinstance(silent.why, Unauthorized) and not here.as_gateway.token:
        return (
            f"worker {silent.worker}: it wants the cluster's token, and this box has none; set "
            "EDGESERVE_TOKEN to the same value on every box"
        )
    return str(silent.why)


def _version(answered: Answered) -> Iterator[Finding]:
    theirs = answered.description.package_version
    if theirs != __version__:
        yield _fault(
            f"worker {answered.worker} runs edgeserve {theirs}, this box {__version__}; install "
            "the same version on every box"
        )


def _unused_gpu(answered: Answered) -> Iterator[Finding]:
    """A worker that computes on the CPU of a box with a GPU was told to, or is an older one."""
    box = answered.description.box
    if answered.description.device != "cpu" or box is None or box.driver_version == NONE:
        return
    torch = torch_of(box.torch_version)
    why_not = torch and why_not_usable(
        NvidiaDriver(version=box.driver_version), torch, box="its box"
    )
    why = (
        why_not or f"its box has NVIDIA driver {box.driver_version}, and --device cuda would use it"
    )
    yield _note(f"worker {answered.worker} computes on the CPU: {why}")


def _link(answered: Answered) -> Iterator[Finding]:
    worker, link = answered.worker, answered.link
    if isinstance(link, EdgeserveError):
        yield _fault(f"worker {worker}: its link cannot be measured: {link}")
        return
    if link.idle_round_trip_s > HOP_S_MAX:
        yield _fault(
            f"worker {worker}: each token of a 13B model would spend "
            f"{link.idle_round_trip_s * 1e3:.1f} ms on its link, where "
            f"{HOP_S_MAX * 1e3:.0f} ms are much; look for a radio link, a slow port or a busy box"
        )
    if link.bytes_per_s < PROMPT_BYTES_PER_S_MIN:
        chunk_ms = PROMPT_BYTES / link.bytes_per_s * 1e3
        yield _fault(
            f"worker {worker}: its link carries {link.bytes_per_s / 1e6:.1f} MB/s, so "
            f"{PROMPT_TOKENS} tokens of a 13B model's prompt take {chunk_ms:.0f} ms to reach it; "
            f"{PROMPT_BYTES_PER_S_MIN / 1e6:.1f} MB/s keep up with a card: use gigabit ports"
        )


def _doubles(answered: Sequence[Answered]) -> Iterator[Finding]:
    for one, other in combinations(answered, 2):
        if one.is_same_as(other):
            yield _fault(
                f"{one.worker} and {other.worker} are two addresses of one worker, which can hold "
                "one stage only; name it once"
            )


def _held(answered: Sequence[Answered]) -> Iterator[Finding]:
    """A gateway that serves holds all of its workers: one that holds a part of these is another."""
    held = [each for each in answered if each.description.held]
    if not held:
        return
    newest = max(each.description.epoch for each in held)
    names = [each.worker for each in held if each.description.epoch == newest]
    if len(names) == len(answered):
        yield _note(
            "a gateway serves with these workers now; one that you start takes them away from it"
        )
    else:
        yield _fault(
            f"a newer gateway holds {', '.join(names)} and not the other workers: one that you "
            "start takes them away, and the other's requests fail; stop that gateway, or leave "
            "these workers out"
        )


def _plan(seen: Examined) -> Iterator[Finding]:
    match seen.plan:
        case EdgeserveError() as wrong:
            yield _fault(str(wrong))
        case Plan() as plan:
            counts = "/".join(map(str, plan.layer_counts))
            yield _note(
                f"in {plan.dtype} the model fits as {counts} layers, with room for "
                f"{plan.kv_tokens:,} tokens of keys and values"
            )
        case None:
            pass


def _fault(text: str) -> Finding:
    return Finding(is_fault=True, text=text)


def _note(text: str) -> Finding:
    return Finding(is_fault=False, text=text)
