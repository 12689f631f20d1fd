"""Whether a GPU still has the room that was planned with, before anything is loaded into it."""

from __future__ import annotations

from edgeserve.cost.reserve import workspace
from edgeserve.errors import DoesNotFit
from edgeserve.families.spec import PAGE_TOKENS, ModelSpec
from edgeserve.plan.amount import amount
from edgeserve.wire.messages import LoadOrder
from edgeserve.worker.device import Device


def check_room(spec: ModelSpec, order: LoadOrder, device: Device) -> None:
    """What was free when this worker started may be another's by now: a display's, a program's.

    Raises DoesNotFit. Other devices than GPUs are not asked: a computer's memory can be paged out.
    """
    if device.kind != "cuda":
        return
    needed, free = needed_bytes(spec, order), device.memory_free_bytes()
    if free < needed:
        raise DoesNotFit(
            f"{order.stage} with {order.pages} pages needs {amount(needed)} of this worker's GPU, "
            f"and {amount(free)} are free now; it counted on {amount(device.memory_bytes)} when it "
            "started. End the other programs on the card (nvidia-smi shows them), or restart this "
            "worker, so that the plan counts on what is left",
            needed_bytes=needed,
            free_bytes=free,
        )


def needed_bytes(spec: ModelSpec, order: LoadOrder) -> int:
    """Of the GPU: slice, pages, and what computing takes."""
    stage, dtype = order.stage, order.dtype
    return (
        spec.stage_bytes(stage, dtype)
        + spec.kv_bytes_per_token(len(stage.layers), dtype) * PAGE_TOKENS * order.pages
        + workspace(spec, stage, dtype, order.frame_tokens_max).bytes
    )
