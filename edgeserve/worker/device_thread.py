"""One thread that runs frames in the order in which they came, and one that finishes them.

gRPC's loop only moves bytes. While the device thread computes frame n, the loop decodes frame n+1,
and the finisher waits for the device, copies out and encodes frame n-1. The exception is a short
frame that has nothing before it: it starts on the loop, see SHORT_S.

On a GPU only frames that are one recorded graph do. cuBLAS has a handle for each thread that calls
it, with a workspace of 8 to 32 MB that the first call takes from the device: the device thread
makes its own at load, when graphs are warmed up and the longest frame is tried, before pages are
promised to anybody; the loop's would come in the midst of requests, from memory that nobody
planned. A graph's launch needs no handle, and neither do copies and events. So:

    thread     launches                                             warmed up
    device     loads, long frames, scored and drawn rows, graphs    at load, by the load itself
    loop       graphs whose rows take the most likely token         nothing to warm up
    finisher   nothing: it waits for events, and reads memory       nothing to warm up
"""

from __future__ import annotations

import functools
import logging
import math
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from edgeserve.clock import Clock
from edgeserve.errors import DeviceLost, EdgeserveError, WireError
from edgeserve.frames.stage_time import StageTime
from edgeserve.wire.codec import decode_frame, encode_result
from edgeserve.wire.frame import Failure, Frame, FrameResult
from edgeserve.worker.device_faults import device_lost
from edgeserve.worker.pace import LaunchedPaced, PacedStage
from edgeserve.worker.sequences import SequenceTable
from edgeserve.worker.stage import Launched, ResidentStage, Taken
from edgeserve.worker.stopwatch import SLEEP_S

log = logging.getLogger(__name__)

STOP_S = 5.0
SHORT_S = 0.005
"""A frame that a CPU computes in less, or that a GPU is told in less, starts on the loop itself:
handing it to a thread is a wake-up, and a CPU's result back another one, a quarter of a hop's cost
(docs/LOG.md). Longer ones stay on one thread: were two to compute, each would have OpenMP threads
of its own, more than cores, and those do not spin."""
COLD_S, EARLY_S = 5e-3, 2e-3
"""After some silence cores, caches and connections take twice as long to carry a message. So long
before the result of a frame that takes longer than COLD_S, an empty message goes the same way, and
the path is awake (docs/LOG.md)."""


@dataclass(kw_only=True)
class Session:
    """One gateway's stream of frames to one stage. Its sequences end with it."""

    stage: ResidentStage | PacedStage | None
    """None once the session is over: an idle stream must not keep a slice in memory."""
    thread: DeviceThread
    reply: Callable[[bytes], None]
    announce: Callable[[float], None]
    """Says in so many seconds that a result is about to come."""
    closed: bool = False
    """The stream has ended: there is nobody to reply to."""
    table: SequenceTable = field(init=False)
    _over: WireError | None = None

    def __post_init__(self) -> None:
        assert self.stage is not None
        self.table = self.stage.new_table()

    def submit(self, raw: bytes) -> None:
        """Raises what ended the session, and WireError for what is no frame."""
        if self._over is not None:
            raise self._over
        received_s = self.thread.clock.now_s()
        frame = decode_frame(raw)
        decode_s = self.thread.clock.now_s() - received_s
        self.thread.submit(
            FrameJob(session=self, frame=frame, received_s=received_s, decode_s=decode_s)
        )

    def close(self) -> None:
        """Frames that still wait are dropped."""
        self.closed = True

    def end(self, why: WireError) -> None:
        """The stage goes to another session: frames that still wait or come later are told why."""
        self.stage, self._over = None, why

    def any_thread_may(self, frame: Frame) -> bool:
        """Launch it; or refuse it, if there is no stage any more."""
        return self.stage is None or self.stage.any_thread_may_launch(frame, self.table)

    def stage_now(self) -> ResidentStage | PacedStage:
        """Raises what ended the session."""
        if self.stage is None:
            assert self._over is not None
            raise self._over
        return self.stage


@dataclass(frozen=True, kw_only=True)
class FrameJob:
    session: Session
    frame: Frame
    received_s: float
    decode_s: float


class DeviceThread:
    """`submit` from one thread, the loop's. `call` runs something else between two frames, such as
    loading.
    """

    def __init__(
        self, clock: Clock, on_lost: Callable[[DeviceLost], None] = lambda _error: None
    ) -> None:
        """`on_lost` is called, on whatever thread finds out, if the device has failed for good."""
        self.clock = clock
        self._on_lost = on_lost
        self._unfinished = 0
        self._lock = threading.Lock()
        self._launch_s: dict[int, float] = {}  # the last time for frames of about so many tokens
        self._compute_s: dict[int, float] = {}  # the last time for frames of exactly so many
        self._due_s = 0.0  # when all that was launched should be done
        self._work: queue.SimpleQueue[FrameJob | Callable[[], None] | None] = queue.SimpleQueue()
        self._launched: queue.SimpleQueue[
            tuple[FrameJob, Taken, Launched | LaunchedPaced] | None
        ] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._launch_all, name="device", daemon=True),
            threading.Thread(target=self._finish_all, name="finisher", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: FrameJob) -> None:
        # Only while nothing else runs may the loop look at the session's sequences.
        if self._unfinished == 0 and self._is_short(job) and job.session.any_thread_may(job.frame):
            with torch.inference_mode():
                self._run(job)
        else:
            self._put(job)

    def call(self, work: Callable[[], None]) -> None:
        """`work` handles its own errors."""
        self._put(work)

    def stop(self) -> None:
        """Returns when what runs has ended: Python cuts threads off by aborting the process."""
        self._work.put(None)
        for thread in self._threads:
            thread.join(STOP_S)

    @torch.inference_mode()
    def _launch_all(self) -> None:
        while self._launch_next():
            pass
        self._launched.put(None)

    def _launch_next(self) -> bool:
        """Whether to go on. A function of its own: what was done last is not held until there is
        more to do.
        """
        work = self._work.get()
        if work is None:
            return False
        if isinstance(work, FrameJob):
            self._run(work)
        else:
            work()
        with self._lock:
            self._unfinished -= 1
        return True

    def _put(self, work: FrameJob | Callable[[], None]) -> None:
        with self._lock:
            self._unfinished += 1
        self._work.put(work)

    def _is_short(self, job: FrameJob) -> bool:
        return self._launch_s.get(_size(job.frame), SHORT_S) < SHORT_S

    def _run(self, job: FrameJob) -> None:
        if not job.session.closed:
            self._guarded(job, functools.partial(self._launch, job))

    def _launch(self, job: FrameJob) -> None:
        started_s = self.clock.now_s()
        taken = Taken(received_s=job.received_s, decode_s=job.decode_s, started_s=started_s)
        stage = job.session.stage_now()
        sequences = job.session.table.take(job.frame)
        # A frame of a size not seen before is most likely a prompt, and long.
        sleeps = self._compute_s.get(job.frame.tokens, math.inf) > SLEEP_S
        launched = stage.launch(job.frame, sequences, self.clock, sleeps=sleeps)
        self._launch_s[_size(job.frame)] = self.clock.now_s() - started_s
        if isinstance(launched, LaunchedPaced) or launched.watch.cuda:
            self._launched.put((job, taken, launched))
            self._announce(job)
        else:  # a CPU has finished already: another thread would only cost a wake-up
            self._finish(job, taken, launched)

    def _finish_all(self) -> None:
        while self._finish_next():
            pass

    def _finish_next(self) -> bool:
        waiting = self._launched.get()
        if waiting is not None:
            self._guarded(waiting[0], functools.partial(self._finish, *waiting))
        return waiting is not None

    def _announce(self, job: FrameJob) -> None:
        """That its result is about to come, as far as that is known."""
        now_s, takes_s = self.clock.now_s(), self._compute_s.get(job.frame.tokens, 0.0)
        self._due_s = max(self._due_s, now_s) + takes_s
        if takes_s > COLD_S:
            job.session.announce(self._due_s - EARLY_S - now_s)

    def _finish(self, job: FrameJob, taken: Taken, launched: Launched | LaunchedPaced) -> None:
        result = launched.finish(taken, self.clock)
        self._compute_s[job.frame.tokens] = result.time.compute_s
        _reply(job, result)

    def _guarded(self, job: FrameJob, work: Callable[[], None]) -> None:
        """The border of the device: whatever a frame does here, its gateway hears of it, and the
        next one runs.
        """
        try:
            work()
        except EdgeserveError as error:
            _reply(job, _failed(job.frame, error.error_type, str(error)))
        except Exception as error:  # guards the device thread's border
            log.exception("frame %d failed", job.frame.frame)
            lost = device_lost(error)
            if lost is None:
                _reply(job, _failed(job.frame, "internal", f"{type(error).__name__}: {error}"))
            else:
                _reply(job, _failed(job.frame, lost.error_type, str(lost)))
                self._on_lost(lost)


def _size(frame: Frame) -> int:
    """Frames of 1, 2 to 3, 4 to 7 ... tokens take about the same time; a token that is scored is
    more than one that is not.
    """
    scored = sum(len(each.tokens) for each in frame.scores.values())
    return (frame.tokens + scored).bit_length()


def _reply(job: FrameJob, result: FrameResult) -> None:
    if not job.session.closed:
        job.session.reply(encode_result(result))


def _failed(frame: Frame, error_type: str, message: str) -> FrameResult:
    failure = Failure(error_type=error_type, message=message)
    return FrameResult(frame=frame.frame, time=StageTime(), failure=failure)
