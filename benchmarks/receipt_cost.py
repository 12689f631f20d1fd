"""What making a receipt costs the loop that hands out everybody's tokens.

    python -m benchmarks.receipt_cost

Milliseconds of the processor for one receipt, and for its JSON; three stages, one lap a token. The
answers ran side by side, so their ledgers share the hops of their frames.
"""

from __future__ import annotations

import json
import sys

from edgeserve.clock import ProcessorTime
from edgeserve.frames.stage_time import StageTime
from edgeserve.timing.hop import Hop, Lap
from edgeserve.timing.ledger import Ledger, StageLabel

STAGES = 3
INSIDE = StageTime(queue_s=1e-3, decode_s=1e-4, compute_s=8e-3, encode_s=1e-4)
HOP_S = 10e-3
LABELS = tuple(StageLabel(stage=i, worker=f"box-{i}", layers=(i, i + 1)) for i in range(STAGES))
ANSWERS = {64: 64, 1024: 8}
"""How many of each length."""


def main() -> int:
    clock = ProcessorTime()
    for tokens, count in ANSWERS.items():
        laps = _laps(tokens)
        ledgers = [_ledger(laps) for _ in range(count)]
        start_s = clock.now_s()
        receipts = [each.receipt(laps[-1].done_s) for each in ledgers]
        made_s = clock.now_s()
        for each in receipts:
            json.dumps(each)
        made_ms, json_ms = 1e3 * (made_s - start_s), 1e3 * (clock.now_s() - made_s)
        sys.stdout.write(
            f"{tokens} tokens: {made_ms / count:.2f} ms a receipt, {json_ms / count:.2f} ms its "
            f"JSON ({count} answers)\n"
        )
    return 0


def _laps(count: int) -> list[Lap]:
    lap_s = STAGES * HOP_S
    return [
        Lap(
            ready_s=i * lap_s,
            ordered_s=i * lap_s,
            hops=tuple(_hop(stage, i * lap_s) for stage in range(STAGES)),
            done_s=(i + 1) * lap_s,
        )
        for i in range(count)
    ]


def _hop(stage: int, start_s: float) -> Hop:
    sent_s = start_s + stage * HOP_S
    return Hop(stage=stage, sent_s=sent_s, returned_s=sent_s + HOP_S, inside=INSIDE)


def _ledger(laps: list[Lap]) -> Ledger:
    ledger = Ledger(labels=LABELS, received_s=0.0, prompt_tokens=32)
    for lap in laps:
        ledger.lap(lap)
        ledger.token(lap.done_s)
    return ledger


if __name__ == "__main__":
    raise SystemExit(main())
