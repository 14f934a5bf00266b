"""What ``tvmc tune`` shows: the tasks of a network, how far the search is, what it brought."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cospipe.backends.tvm.tuning.search import SearchProgress
    from cospipe.backends.tvm.tuning.tasks import NetworkTasks
    from cospipe.backends.tvm.tuning.tune import TuningResult

log = logging.getLogger("cospipe")


def task_table(found: NetworkTasks) -> str:
    """Return the tasks of a network as text, a line each."""
    from cospipe.backends.tvm.tvmc.text_table import text_table

    rows = [("task", "kind", "calls", "MFLOP", "nodes")]
    rows += [
        (str(number), task.kind, str(task.calls), f"{task.operations / 1e6:.2f}", _shortened(task.nodes))
        for number, task in enumerate(found.tasks)
    ]
    return text_table(rows, numbers={0, 2, 3}) + _left_text(found.left_to_ours)


@contextmanager
def show_search() -> Iterator[Callable[[SearchProgress], None]]:
    """Show on standard error how far a search is: a bar on a terminal, a line a batch elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda search: log.info("%d of %d trials; %s", search.done, search.total, progress_text(search))
        return
    columns = TextColumn("Tuning"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=console, transient=True) as bar:
        shown = bar.add_task("", total=None)
        yield lambda search: bar.update(
            shown, total=search.total, completed=search.done, description=progress_text(search)
        )


def progress_text(search: SearchProgress) -> str:
    """Return the time left and what gained most so far."""
    minutes, seconds = divmod(round(search.seconds_left), 60)
    gained = f"{search.nodes[0]} {search.improvement:.2f} times as fast as at first" if search.nodes else "none yet"
    return f"{minutes}:{seconds:02d} left; best: {gained}"


def result_table(result: TuningResult) -> str:
    """Return what tuning brought as text: a line a task, then the kernels that cannot be tuned."""
    from cospipe.backends.tvm.tvmc.text_table import text_table

    rows = [("task", "nodes", "cospipe us", "tuned us", "kept")]
    for one in result.results:
        compared = one.comparison
        times = (f"{compared.ours_us:.1f}", f"{compared.tuned_us:.1f}") if compared else ("-", "-")
        kept = "tuned" if one.is_tuned_kept else "cospipe"
        rows.append((str(one.number), _shortened(one.task.nodes), *times, kept))
    return text_table(rows, numbers={0, 2, 3}) + _left_text(result.left_to_ours)


def _left_text(left: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    if not left:
        return ""
    kinds = ", ".join(f"{kind} ({_shortened(nodes)})" for kind, nodes in left)
    return f"\nNot tuned, for MetaSchedule has no way to schedule them: {kinds}"


def _shortened(nodes: tuple[str, ...]) -> str:
    shown = ", ".join(nodes[:3])
    return f"{shown} and {len(nodes) - 3} more" if len(nodes) > 3 else shown
