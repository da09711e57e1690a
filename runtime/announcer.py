"""What a launcher shows: other processes' lines, who is missing, progress, and the ready line."""

import json
import shlex
import sys

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from actors.messages import PlanChanged

JSON_LINE = '{"at": '
"""How a line of JSON begins, perhaps behind the names of those who handed it on."""
KILLED = "killed by signal 9"


class Announcer:
    """Writes to the console; a progress bar only where somebody looks."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stdout, soft_wrap=True, highlight=False)
        self._bar: Progress | None = None
        self._missing: tuple[str, ...] = ()
        self._hinted: set[str] = set()
        self._was_ready = False
        self._is_muted = False
        self.join_line = ""
        self.own_node: str | None = None

    def say(self, text: str) -> None:
        """Print a line of our own."""
        self._console.print(text, markup=False, emoji=False)

    def show_line(self, source: str, line: str) -> None:
        """Print a line that another process wrote, with its name in front.

        A line of JSON stays JSON: the name becomes its first field.
        """
        if self._is_muted:
            return
        head, found, rest = line.partition(JSON_LINE)
        if found:
            names = "/".join([source, *filter(None, head.split(" | "))])
            shown = f'{{"source": {json.dumps(names)}, "at": {rest}'
        else:
            shown = f"{source} | {line}"
        self._console.print(shown, markup=False, emoji=False)

    def mute(self) -> None:
        """From now on show no line of another process."""
        self._is_muted = True

    def show_plan(self, plan: PlanChanged) -> None:
        """Say what is missing, and that nothing is any more, once per change."""
        if plan.missing and plan.missing != self._missing:
            self.say("; ".join(plan.missing))
            self._hint(plan.missing)
        elif self._missing and not plan.missing:
            self._say_ready(plan)
        self._missing = plan.missing

    def _hint(self, missing: tuple[str, ...]) -> None:
        """How a node that is waited for joins, once for each; the launcher that is joined says so.

        A node that was lost and is waited for again may have been hinted at long ago, so that
        what is no longer missing is forgotten.
        """
        wanted = {flag for text in missing if (flag := self._node_flag(text)) is not None}
        for flag in sorted(wanted - self._hinted) if self.join_line else ():
            self.say(f"  join with: {self.join_line}{flag}")
        self._hinted = wanted

    def _node_flag(self, missing: str) -> str | None:
        """What the join line needs besides, for one thing that is missing; None if no node is."""
        what = missing.removeprefix("waiting for ")
        if what.endswith((" more node", " more nodes")):
            return ""
        name = what.removeprefix("node ")
        return None if name in (what, self.own_node) else f" --node-id {shlex.quote(name)}"

    def _say_ready(self, plan: PlanChanged) -> None:
        """The launcher that has an endpoint says the first time itself, with its address."""
        if self._was_ready:
            self.say("ready again")
        elif not self.join_line:
            self.say(f"the service is ready: {_summary(plan)}")
            self._was_ready = True

    def say_started_again(self, role: str, ended: str) -> None:
        """Say that a process of ours ended, how, and that there is another in its place."""
        how = KILLED if ended.startswith(f"{KILLED};") else ended  # its last line is no reason
        self.say(f"{role} ended ({how}); started again")

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

    def ready(self, url: str, page_url: str, plan: PlanChanged) -> None:
        """Print the ready line, a request to paste, the page, and how another machine joins."""
        self.close()
        self._was_ready = True
        self.say(f"ready {url} {_summary(plan)}")
        self.say(f"  try   {_curl(url, plan.model)}")
        self.say(f"  see   {page_url}/dashboard")
        self.say(f"  join  {self.join_line}")
        self.say("  stop  Ctrl-C")


def _summary(plan: PlanChanged) -> str:
    num_stages = sum(len(pipeline.stages) for pipeline in plan.pipelines)
    return f"model={plan.model} pipelines={len(plan.pipelines)} stages={num_stages}"


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
