"""What a search leaves behind when it ends early; candidates are neither built nor run here, which takes longest."""

from tempfile import mkdtemp

import pytest
import torch
from torch import nn
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.builder import BuilderResult, PyBuilder
from tvm.s_tir.meta_schedule.runner import PyRunner, PyRunnerFuture, RunnerResult

from cospipe.backends.tvm.importer import import_stage
from cospipe.backends.tvm.target import core_target, kernel_core
from cospipe.backends.tvm.tuning.database import read_database
from cospipe.backends.tvm.tuning.search import SearchOptions, search
from cospipe.backends.tvm.tuning.tasks import find_tasks
from cospipe.backends.tvm.tuning.tune import prepare_directory, trials_done
from cospipe.ir.capture import capture
from cospipe.ir.errors import RemoteError
from cospipe.ir.soc import load_soc

BATCH = 8


@derived_object
class NoBuilder(PyBuilder):
    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def build(self, build_inputs):
        # a folder for each, which MetaSchedule deletes
        return [BuilderResult(f"{mkdtemp(dir=self.folder)}/kernel.so", None) for _ in build_inputs]


@derived_object
class Known(PyRunnerFuture):
    def __init__(self, result):
        super().__init__()
        self.known = result

    def done(self):
        return True

    def result(self):
        return self.known


@derived_object
class Boards(PyRunner):
    """Measures so many candidates, then no board is left."""

    def __init__(self, enough_for):
        super().__init__()
        self.enough_for, self.no_board_left = enough_for, None

    def run(self, runner_inputs):
        return [Known(self.measured()) for _ in runner_inputs]

    def measured(self):
        if self.enough_for == 0:
            self.no_board_left = RemoteError("No board is left.")
            return RunnerResult(None, "no board is left")
        self.enough_for -= 1
        return RunnerResult([1e-6], None)


@pytest.fixture(scope="module")
def tuned():
    torch.manual_seed(0)
    example = (torch.rand(1, 8, 6, 6),)
    graph = capture(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()).eval(), example)
    soc = load_soc("host")
    target, core = (make(soc.clusters[0], 1, soc.architecture) for make in (core_target, kernel_core))
    return find_tasks(import_stage(graph, example), core, allows_winograd=True).tasks, target


def run_search(tuned, folder, runner, **options):
    tasks, target = tuned
    prepare_directory(folder / "records")
    result = search(tasks, target, folder / "records", NoBuilder(folder), runner, SearchOptions(**options, seed=0))
    return result, trials_done(folder / "records", tasks, target)


def test_what_was_measured_before_the_last_board_died_is_kept(tuned, tmp_path):
    with pytest.raises(RemoteError, match="No board is left"):
        run_search(tuned, tmp_path, Boards(enough_for=BATCH - 3), trials=2 * BATCH)
    stored = read_database(tmp_path / "records")
    assert [[float(seconds) for seconds in record.run_secs] for record in stored] == [[1e-6]] * (BATCH - 3)


def test_whoever_stops_a_search_keeps_the_batches_that_are_done(tuned, tmp_path):
    seen = []
    result, done = run_search(
        tuned, tmp_path, Boards(enough_for=1000), trials=2 * BATCH, stop=lambda: len(seen) >= 1, progress=seen.append
    )
    assert result.was_stopped
    assert [progress.done for progress in seen] == [done]
    assert 0 < done < 2 * BATCH


def test_a_task_ends_early_when_nothing_gets_faster(tuned, tmp_path):
    seen = []
    result, done = run_search(
        tuned, tmp_path, Boards(enough_for=1000), trials=2 * BATCH, early_stopping=0, progress=seen.append
    )
    assert not result.was_stopped
    assert [progress.done for progress in seen] == [done]
    assert 0 < done < 2 * BATCH
