"""A tracker and several servers on this machine, some of which die, hang, or say they have another processor."""

import signal
import time
from concurrent.futures import Future

import farm_jobs
import pytest
import tvm
from farm_servers import ARCHITECTURE, KEY, RunningServers
from tvm import te
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.runner import RunnerInput
from tvm.support.tar import tar

from cospipe.backends.tvm.farm.farm import Farm, FarmOptions
from cospipe.backends.tvm.farm.job import NoBoardLeftError
from cospipe.backends.tvm.farm.requirement import soc_requirement
from cospipe.backends.tvm.farm.runner import FarmRunner, RunnerOptions
from cospipe.backends.tvm.farm.tracker import Tracker
from cospipe.ir.errors import RemoteError
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import load_soc

HOST = load_soc("host")
ONE_CORE = soc_requirement(HOST, [CoreConfiguration(HOST.clusters[0].name, 1)])
# servers on one machine take time from each other: how quick they are says nothing
PATIENT = FarmOptions(slowdown=1e6, grace_s=5, patience_s=60)
JOB_SECONDS = 5


class Reports(dict):
    """What was said of each board."""

    def __call__(self, board, problem):
        self.setdefault(board, []).append(problem)

    def of(self, board):
        return "\n".join(self.get(board, []))


@pytest.fixture
def reports():
    return Reports()


def open_farm(servers, reports, requirement=ONE_CORE, options=PATIENT):
    return Farm(Tracker(*servers.tracker, KEY), requirement, reports, options)


def wait_until_started(folder, boards):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        started = folder / "started"
        if started.exists() and boards <= set(started.read_text().split()):
            return
        time.sleep(0.05)
    pytest.fail(f"no job started on some of {boards}")


@pytest.mark.slow
def test_every_job_is_done_once_whatever_boards_do(tmp_path, reports):
    with RunningServers(tmp_path, 4, liars=1) as servers, open_farm(servers, reports) as farm:
        liar, killed, stopped, good = servers.pids
        names = [f"job {number}" for number in range(12)]
        futures = [farm.submit(name, JOB_SECONDS, farm_jobs.note, (tmp_path, name[4:], 1.0)) for name in names]
        wait_until_started(tmp_path, {killed, stopped})
        servers.send(killed, signal.SIGKILL)
        servers.send(stopped, signal.SIGSTOP)

        results = [future.result(timeout=120) for future in futures]
        assert [result.value for result in results] == [name[4:] for name in names]
        assert sorted((tmp_path / "done").read_text().split(), key=int) == [name[4:] for name in names]
        assert results[-1].board.startswith(good)
        assert liar not in (tmp_path / "started").read_text().split()

        assert "left out: cpu" in reports.of(liar)
        assert "failed: " in reports.of(killed)
        assert "left out: it did not answer within 10 s" in reports.of(stopped)
        assert good not in reports
        assert farm.left_out().keys() >= {liar, stopped}
        assert farm.boards_in_use() == 1


@pytest.fixture(scope="module")
def two_servers(tmp_path_factory):
    with RunningServers(tmp_path_factory.mktemp("servers"), 2) as servers:
        yield servers


@pytest.fixture(scope="module")
def farm(two_servers):
    with open_farm(two_servers, Reports()) as farm:
        yield farm


@pytest.mark.slow
def test_a_job_that_fails_everywhere_is_at_fault_itself(two_servers, farm, tmp_path):
    bad = [farm.submit("a bad job", JOB_SECONDS, farm_jobs.fail, ()) for _ in range(4)]
    for future in bad:
        with pytest.raises(RemoteError, match="a bad job failed on every board that tried it") as failed:
            future.result(timeout=60)
        assert str(failed.value).count("this never works") == 2
        assert all(board in str(failed.value) for board in two_servers.pids)
    assert not farm.left_out()
    assert farm.submit("a good one", JOB_SECONDS, farm_jobs.note, (tmp_path, 1)).result(timeout=60).value == 1


@pytest.mark.slow
def test_the_server_ends_a_job_that_takes_too_long(farm, tmp_path):
    slow = farm.submit("a slow job", 1, farm_jobs.note, (tmp_path, 0, 1e6))
    with pytest.raises(RemoteError, match="session has expired"):
        slow.result(timeout=60)
    assert not farm.left_out()


@pytest.mark.slow
def test_jobs_get_the_cores_of_the_requirement_or_their_own(farm):
    first, last = HOST.clusters[0].cpu_ids[0], HOST.clusters[-1].cpu_ids[-1]
    usual = farm.submit("a job", JOB_SECONDS, farm_jobs.cores, ())
    other = farm.submit("another", JOB_SECONDS, farm_jobs.cores, (), cpu_ids=(last,))
    assert usual.result(timeout=60).value == str(first)
    assert other.result(timeout=60).value == str(last)


@pytest.mark.slow
def test_candidates_of_metaschedule_are_timed(farm, tmp_path):
    left = te.placeholder((32, 32), name="left")
    doubled = te.create_prim_func([left, te.compute((32, 32), lambda i, j: left[i, j] * 2, name="doubled")])
    target = {"kind": "llvm", "mtriple": f"{ARCHITECTURE}-linux-gnu"}
    tvm.compile(doubled, target=tvm.target.Target(target)).export_library(str(tmp_path / "kernel.tar"), fcompile=tar)
    runner = FarmRunner(farm, RunnerOptions(number=2, repeat=3, min_repeat_ms=0, timeout_s=JOB_SECONDS))
    arguments = ArgInfo.from_prim_func(doubled)
    candidates = [RunnerInput(str(tmp_path / name), "cpu", arguments) for name in ("kernel.tar", "missing.tar")]
    good, bad = (future.result() for future in runner.run(candidates))
    assert len(good.run_secs) == 3
    assert all(0 < float(seconds) < 1 for seconds in good.run_secs)
    assert bad.run_secs is None
    assert "a candidate failed on every board that tried it" in bad.error_msg
    assert runner.no_board_left is None


def test_a_search_ends_when_no_board_is_left():
    class Deserted:
        requirement = ONE_CORE

        def submit(self, name, *_):
            future = Future()
            future.set_exception(NoBoardLeftError(f"{name} was not done: no board is left."))
            return future

    runner = FarmRunner(Deserted())
    candidate = RunnerInput("kernel.tar", "cpu", [])
    (future,) = runner.run([candidate])
    assert "no board is left" in future.result().error_msg
    with pytest.raises(RuntimeError, match="no board is left"):  # what TVM makes of it
        runner.run([candidate])
    assert isinstance(runner.no_board_left, NoBoardLeftError)


@pytest.mark.slow
def test_boards_that_are_much_slower_than_at_first_are_left_out(two_servers, reports, tmp_path):
    strict = FarmOptions(slowdown=1e-9, grace_s=5)  # nothing is as quick as that
    with open_farm(two_servers, reports, options=strict) as farm:
        job = farm.submit("a job", JOB_SECONDS, farm_jobs.note, (tmp_path, 0))
        with pytest.raises(NoBoardLeftError, match="no board is left") as failed:
            job.result(timeout=60)
    for board in two_servers.pids:
        assert f"{board}: it is too slow" in str(failed.value)


@pytest.mark.slow
def test_what_cannot_be_sent_is_told(farm):
    with pytest.raises(RemoteError, match="a job cannot be sent"):
        farm.submit("a job", JOB_SECONDS, lambda: None, ()).result(timeout=60)


@pytest.mark.slow
def test_no_board_is_left(tmp_path, reports):
    with RunningServers(tmp_path, 1) as servers, open_farm(servers, reports) as farm:
        (board,) = servers.pids
        first = farm.submit("the first", JOB_SECONDS, farm_jobs.note, (tmp_path, 1))
        assert first.result(timeout=60).value == 1
        servers.send(board, signal.SIGKILL)
        second = farm.submit("the second", JOB_SECONDS, farm_jobs.note, (tmp_path, 2))
        with pytest.raises(NoBoardLeftError, match="the second was not done: no board is left") as failed:
            second.result(timeout=60)
        assert board in str(failed.value)


@pytest.mark.slow
def test_the_tracker_knows_no_such_board(two_servers):
    with pytest.raises(RemoteError, match=r"knows no board with the key 'other'.*rpc_server --tracker"):
        Farm(Tracker(*two_servers.tracker, "other"), ONE_CORE)
