"""What a launcher shows: other processes' lines, who is missing, progress, and the ready line."""

import json
import sys

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from actors.messages import PlanChanged


class Announcer:
    """Writes to the console; a progress bar only where somebody looks."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stdout, soft_wrap=True, highlight=False)
        self._bar: Progress | None = None
        self._missing: tuple[str, ...] = ()
        self._num_nodes = 0
        self.join_line = ""

    def say(self, text: str) -> None:
        """Print a line of our own."""
        self._console.print(text, markup=False)

    def show_line(self, source: str, line: str) -> None:
        """Print a line that another process wrote, with its name in front."""
        self._console.print(f"{source} | {line}", markup=False)

    def show_plan(self, plan: PlanChanged) -> None:
        """Say who joined and what is missing, once per change."""
        if plan.missing and plan.missing != self._missing:
            self.say("; ".join(plan.missing))
            if plan.missing[0].startswith("waiting for node") and self.join_line:
                self.say(f"  join with: {self.join_line} --node-id NAME")
        self._missing = plan.missing

    def show_progress(self, num_bytes: int, total_bytes: int) -> None:
        """Move the bar of loaded weights; on a terminal only."""
        if not self._console.is_terminal or total_bytes == 0:
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn("loading weights"), BarColumn(), DownloadColumn(), console=self._console
            )
            self._bar.add_task("load", total=total_bytes)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=num_bytes, total=total_bytes)
        if num_bytes >= total_bytes:
            self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def ready(self, url: str, plan: PlanChanged) -> None:
        """Print the ready line, a request to paste, and how another machine joins."""
        self.close()
        num_stages = sum(len(pipeline.stages) for pipeline in plan.pipelines)
        self.say(
            f"ready {url} model={plan.model} pipelines={len(plan.pipelines)} stages={num_stages}"
        )
        self.say(f"  try   {_curl(url, plan.model)}")
        self.say(f"  join  {self.join_line}")
        self.say("  stop  Ctrl-C")


def _curl(url: str, model: str) -> str:
    body = {
        "model": model,
        "stream": True,
        "messages": [{"role": "user", "content": "Hello! What is a list?"}],
    }
    return (
        f"curl -N {url}/v1/chat/completions -H 'content-type: application/json' "
        f"-d '{json.dumps(body)}'"
    )
