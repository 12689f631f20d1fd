"""What the operator sees on the terminal while a cluster starts: the plan, a bar for each stage,
the URL.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from edgeserve.families.folder import ModelSource
from edgeserve.plan.explain import plan_lines
from edgeserve.plan.facts import Plan
from edgeserve.wire.messages import LoadProgress


class LoadDisplay:
    """`planned` and `progress` are called on the pipeline's thread; rich takes care of that."""

    def __init__(self, source: ModelSource) -> None:
        self._console = Console(stderr=True, highlight=False)
        model = source.reference if source.revision else source.name
        self._title = model + (" (weights: random)" if source.random_weights else "")
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn(),
            console=self._console,
        )  # fmt: skip
        self._tasks: dict[int, TaskID] = {}
        self._names: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def planned(self, plan: Plan, simulation: str | None) -> None:
        self._console.print(self._title + (f", {simulation}" if simulation else ""), markup=False)
        for line in plan_lines(plan):
            self._console.print(line, markup=False, soft_wrap=True)
        self._names = tuple(f"stage {i} on {each.worker}" for i, each in enumerate(plan.stages))
        self._bars.start()

    def progress(self, stage: int, step: LoadProgress) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(self._names[stage], total=step.bytes_total)
        doing = f": {step.doing}" if step.doing else ""
        self._bars.update(
            self._tasks[stage],
            completed=step.bytes_done,
            total=step.bytes_total,
            description=self._names[stage] + doing,
        )

    def ready(self, url: str) -> None:
        """The line that `edgeserve up` waits for ends the display."""
        self._bars.stop()
        sys.stdout.write(f"edgeserve gateway serving at {url}\n")
        sys.stdout.flush()
