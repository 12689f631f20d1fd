"""`edgeserve worker` with a device that fails for good when it is told to: once the file named
first on the command line says where.

A CUDA error ends a context wherever it comes up. Here PyTorch's own class is raised in that place;
all else is the worker's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from edgeserve.cli import main
from edgeserve.worker import handler
from edgeserve.worker.device import Device
from edgeserve.worker.stage import Launched, ResidentStage, load_stage

STICKY = 700
WORDS = "CUDA error: an illegal memory access was encountered"


@dataclass
class Fault:
    """What the file says is read at each place that is passed."""

    file: Path

    def at(self, place: str) -> None:
        if self.file.exists() and self.file.read_text() == place:
            error = torch.AcceleratorError(f"{WORDS}\nCUDA kernel errors might be reported later")
            error.error_code = STICKY  # type: ignore[attr-defined]
            raise error


class BreakingSlice(torch.nn.Module):
    def __init__(self, slice_: Any, fault: Fault) -> None:
        super().__init__()
        self.slice_, self.fault, self.logits = slice_, fault, slice_.logits

    def forward(self, *frame: Any) -> Any:
        self.fault.at("launch")
        return self.slice_(*frame)


def put_in(fault: Fault) -> None:
    """The fault stands in each of the worker's ways to its device."""
    finish, free_bytes = Launched.finish, Device.memory_free_bytes

    def loaded(*arguments: Any, **named: Any) -> ResidentStage:
        fault.at("load")
        stage = load_stage(*arguments, **named)
        slice_: Any = BreakingSlice(stage.slice_, fault)
        return replace(stage, slice_=slice_)

    def before(place: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def worked(*arguments: Any) -> Any:
            fault.at(place)
            return work(*arguments)

        return worked

    handler.load_stage = loaded  # type: ignore[attr-defined]
    Launched.finish = before("finish", finish)  # type: ignore[method-assign]
    Device.memory_free_bytes = before("describe", free_bytes)  # type: ignore[method-assign]


if __name__ == "__main__":
    put_in(Fault(Path(sys.argv[1])))
    sys.exit(main(sys.argv[2:]))
