"""The plan that the search chooses on this machine with one slow core, against every other way to use both cores.

    python benchmarks/pipeline_host.py --models resnet50 alexnet --json pipeline_host.json

Each network is profiled on one core, explored on a chip of that core and one of 40 % of its speed, and compiled as the
best plan of every kind: the fast core alone, kernels over both cores, a copy on each core, a pipeline. All take turns
in one process, and the median turn counts. Three ways to slow the core down (``slow_core.py``): ``frames_per_s`` is
with kernels that repeat their work, ``frames_per_s_time_lost`` with a thread that takes the core's time away in every
half millisecond, ``frames_per_s_quota`` with a CPU quota. ONNX Runtime cannot repeat its work: its ``frames_per_s`` is
that with time lost, to be compared with the other ways' figures of that column; ``slowed_by`` says so.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Annotated

import typer
from command_line import repeat_option_names
from environment import JsonFile, Row, print_rows, write_rows
from models import FIVE, load_network, model_specs
from slow_core import SlowCore
from slow_core_plans import Explored, explore_network, one_slow_core
from slow_core_ways import BundleWay, OnnxRuntimeWay, Turn, Way

from cospipe.backends.runtime.placement import available_cpus
from cospipe.ir.errors import CospipeError, UsageError

TEN = (*FIVE, "resnet18", "inception_v3", "mobilenet_v3_small", "regnet_y_400mf", "shufflenet_v2_x1_0")
SPEED = 0.4
REPEATED, TIME_LOST, QUOTA = "repeated work", "time lost", "quota"
ONNX = "onnxruntime"

Turns = dict[tuple[str, str], list[Turn]]
"""By way and by how the core was slowed down."""


def main(
    models: Annotated[list[str], typer.Option(help="torchvision names, presets or package.module:factory")] = list(TEN),  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1, help="turns of every way")] = 7,
    seconds: Annotated[float, typer.Option(min=0.05, help="of each turn")] = 0.8,
    json_file: JsonFile = "",
) -> None:
    """Measure how many frames a second every way of using a fast and a slow core computes."""
    cpus = available_cpus()
    if len(cpus) < 2:
        raise UsageError("One core of two is made slow; this process may use one only.")
    fast, slow = cpus[:2]
    core = SlowCore(slow, SPEED, one_slow_core(fast, slow).architecture)
    rows: list[Row] = []
    for spec in model_specs(models):
        rows += measure_network(spec, core, (fast, slow), rounds, seconds)
        if json_file and json_file != "-":
            write_rows(rows, json_file, ("onnxruntime",))
    if json_file:
        write_rows(rows, json_file, ("onnxruntime",), summary(rows))
    else:
        print_rows("One core at full speed, one at 40 %", rows)


def measure_network(spec: str, core: SlowCore, cpus: tuple[int, int], rounds: int, seconds: float) -> list[Row]:
    """Return a row for each way to run a network."""
    name = spec.removeprefix("torchvision.models:")
    network = load_network(spec, (), keep_weights=False)
    explored = explore_network(name, network, one_slow_core(*cpus), SPEED, tell)
    with tempfile.TemporaryDirectory(prefix="pipeline-host-") as scratch, ExitStack() as stack:
        ways = dict(_ways(explored, core, cpus, Path(scratch), stack))
        turns = take_turns(ways, core, rounds, seconds, name)
    plans = explored.plans()
    return [_row(name, way, explored, turns) for way in (*plans, ONNX)]


def tell(step: str) -> None:
    """Say on standard error what is done."""
    print(step, file=sys.stderr, flush=True)


def _ways(
    explored: Explored, core: SlowCore, cpus: tuple[int, int], scratch: Path, stack: ExitStack
) -> Iterator[tuple[str, Way]]:
    for name, plan in explored.plans().items():
        tell(f"{explored.prepared.name}: compiling {name}")
        with core.prepares_stages():
            way: Way = BundleWay(explored.compile(plan, scratch / name))
        stack.callback(way.close)
        yield name, way
    tell(f"{explored.prepared.name}: exporting to ONNX")
    way = OnnxRuntimeWay(explored.network, cpus, scratch)
    stack.callback(way.close)
    yield ONNX, way


def take_turns(ways: Mapping[str, Way], core: SlowCore, rounds: int, seconds: float, name: str) -> Turns:
    """Let all ways take turns, in an order shuffled anew in each round and for each way of slowing down."""
    turns: Turns = {}
    for number in range(rounds):
        tell(f"{name}: round {number + 1} of {rounds}")
        for slowed_by, slowed in _possible(core).items():
            fitting = [way for way in ways if (way, slowed_by) != (ONNX, REPEATED)]
            for way in random.Random(number).sample(fitting, len(fitting)):
                with slowed():
                    turns.setdefault((way, slowed_by), []).append(ways[way].turn(seconds))
    return turns


def _possible(core: SlowCore) -> dict[str, Callable[[], AbstractContextManager[None]]]:
    """Return the ways to slow the core down that this machine permits."""
    permitted = {REPEATED: core.repeats_work, TIME_LOST: core.loses_time, QUOTA: core.has_quota}
    return {name: slowed for name, slowed in permitted.items() if _works(slowed)}


def _works(slowed: Callable[[], AbstractContextManager[None]]) -> bool:
    try:
        with slowed():
            return True
    except UsageError as error:
        tell(str(error))
        return False


def _row(name: str, way: str, explored: Explored, turns: Turns) -> Row:
    plan = explored.plans().get(way)
    slowed_by = REPEATED if plan else TIME_LOST
    return {
        "model": name,
        "plan": way,
        "text": " | ".join(stage.text for stage in plan.stages) if plan else "two threads",
        "chosen": plan is not None and explored.is_chosen(plan),
        "frames_per_s": _median(turns, way, slowed_by),
        "latency_p50_ms": _median(turns, way, slowed_by, "latency_p50_ms"),
        "predicted_period_us": round(plan.period_us, 1) if plan else None,
        "slowed_by": slowed_by,
        "frames_per_s_time_lost": _median(turns, way, TIME_LOST),
        "frames_per_s_quota": _median(turns, way, QUOTA),
    }


def _median(turns: Turns, way: str, slowed_by: str, what: str = "frames_per_s") -> float | None:
    found = [getattr(turn, what) for turn in turns.get((way, slowed_by), [])]
    return round(statistics.median(found), 3) if found else None


def summary(rows: list[Row]) -> dict[str, float | int | None]:
    """Return how the chosen plans compare with the best way and with the fast core, like with like."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    result: dict[str, float | int | None] = {"networks": len(models)}
    for column, ending in (
        ("frames_per_s", ""),
        ("frames_per_s_time_lost", "_time_lost"),
        ("frames_per_s_quota", "_quota"),
    ):
        ratios = [ratio for model in models if (ratio := _ratios(rows, model, column))]
        if not ratios:
            continue
        result[f"within_3_percent_of_best{ending}"] = sum(best >= 0.97 for best, _ in ratios)
        result[f"least_share_of_best{ending}"] = round(min(best for best, _ in ratios), 4)
        result[f"median_of_fast_core{ending}"] = round(statistics.median(fast for _, fast in ratios), 4)
        result[f"least_of_fast_core{ending}"] = round(min(fast for _, fast in ratios), 4)
    return result


def _ratios(rows: list[Row], model: object, column: str) -> tuple[float, float] | None:
    """Return the chosen plan's rate as a share of the best one's and of the fast core's, from one column."""
    rates = {
        str(row["plan"]): float(row[column])
        for row in rows
        if row["model"] == model
        and row[column] is not None
        and (column != "frames_per_s" or row["slowed_by"] == REPEATED)
    }
    chosen = next((str(row["plan"]) for row in rows if row["model"] == model and row["chosen"]), "")
    if chosen not in rates or "fast-core" not in rates:
        return None
    return rates[chosen] / max(rates.values()), rates[chosen] / rates["fast-core"]


if __name__ == "__main__":
    sys.argv[1:] = repeat_option_names(sys.argv[1:], ["--models"])
    try:
        typer.run(main)
    except CospipeError as error:
        sys.exit(str(error))
