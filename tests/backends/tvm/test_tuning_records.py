"""Records are read, checked and used; made here without a search, from the schedules that MetaSchedule would try."""

import json
import logging
from importlib.metadata import version

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from cospipe.backends.tvm.importer import import_stage
from cospipe.backends.tvm.lower import lower_stage
from cospipe.backends.tvm.sessions import LocalSession
from cospipe.backends.tvm.target import core_target, kernel_core
from cospipe.backends.tvm.tuning.comparisons import KernelComparison, KernelComparisons, write_comparisons
from cospipe.backends.tvm.tuning.database import RECORDS, WORKLOADS, check_can_store
from cospipe.backends.tvm.tuning.records import open_records, trace_digest
from cospipe.backends.tvm.tuning.target_match import target_text
from cospipe.backends.tvm.tuning.tasks import find_tasks
from cospipe.backends.tvm.tuning.tune import prepare_directory, trials_done
from cospipe.ir.capture import capture
from cospipe.ir.errors import UsageError
from cospipe.ir.soc import load_soc

can_store = pytest.mark.skipif(
    version("apache-tvm-ffi") >= "0.1.15", reason="apache-tvm-ffi 0.1.15 crashes when it writes kernels as JSON"
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    example = (torch.rand(1, 8, 6, 6),)
    return capture(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()).eval(), example), example


@pytest.fixture(scope="module")
def cores():
    soc = load_soc("host")
    return core_target(soc.clusters[0], 1, soc.architecture), kernel_core(soc.clusters[0], 1, soc.architecture)


@pytest.fixture
def records(tmp_path, network, cores):
    """Return a directory with one record of plain MetaSchedule: the task's loops, unrolled a bit."""
    (task,) = find_tasks(import_stage(*network), cores[1], allows_winograd=True).tasks
    schedule = Schedule(task.module)
    schedule.unroll(schedule.get_loops(schedule.get_sblock("convolution"))[-1])
    database = ms.database.JSONDatabase(str(tmp_path / WORKLOADS), str(tmp_path / RECORDS))
    workload = database.commit_workload(task.module)
    arguments = ms.arg_info.ArgInfo.from_entry_func(task.module, remove_preproc=False)
    database.commit_tuning_record(ms.database.TuningRecord(schedule.trace, workload, [1e-6], cores[0], arguments))
    return tmp_path, task, trace_digest(schedule.trace)


def compared(records, target, ours_us, tuned_us):
    directory, task, trace = records
    comparison = KernelComparison(
        workload=task.workload,
        trace=trace,
        target=target_text(target),
        nodes=task.nodes,
        ours_us=ours_us,
        tuned_us=tuned_us,
        machine="this",
        measured_at="2026-01-01T00:00:00+00:00",
    )
    write_comparisons(directory, KernelComparisons(comparisons=(comparison,)))


def output(network, cores, library, opened):
    graph, example = network
    lowered = lower_stage(graph, example, *cores, library, records=opened)
    machine = tvm.relax.VirtualMachine(LocalSession().load(library), tvm.cpu())
    weights = []
    for argument in lowered.weight_arguments:
        stored = [tvm.runtime.tensor(graph.get_parameter(name).detach().numpy()) for name in argument.weights]
        weights.append(machine[argument.function](*stored)[0] if argument.function else stored[0])
    return machine["main"](tvm.runtime.tensor(example[0].numpy()), *weights)[0].numpy()


@can_store
def test_a_faster_kernel_is_used_and_computes_the_same(records, network, cores, tmp_path, caplog):
    compared(records, cores[0], ours_us=2.0, tuned_us=1.0)
    opened = open_records(records[0], cores[0])
    actual = output(network, cores, tmp_path / "tuned.so", opened)
    with torch.no_grad():
        np.testing.assert_allclose(actual, network[0](*network[1])[0].numpy(), rtol=1e-5, atol=1e-6)
    with caplog.at_level(logging.INFO, "cospipe"):
        opened.report()
    assert "1 used" in caplog.text


@can_store
@pytest.mark.parametrize(("tuned_us", "uses"), [(1.0, True), (1.97, False), (3.0, False)])
def test_ours_is_kept_where_it_is_as_quick(records, cores, tuned_us, uses):
    compared(records, cores[0], ours_us=2.0, tuned_us=tuned_us)
    assert (open_records(records[0], cores[0])(records[1].kernel) is not None) == uses


@can_store
def test_a_record_that_was_never_compared_is_not_used_and_that_is_told(records, cores, caplog):
    opened = open_records(records[0], cores[0])
    assert opened(records[1].kernel) is None
    opened.report()
    assert "never measured against cospipe's own" in caplog.text


@can_store
def test_records_of_other_cores_are_left_out_and_that_is_told(records, cores, caplog):
    compared(records, cores[0], ours_us=2.0, tuned_us=1.0)
    other = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72", "num-cores": 1})
    opened = open_records(records[0], other)
    assert opened(records[1].kernel) is None
    opened.report()
    assert "No record" in caplog.text


@can_store
def test_reading_changes_nothing(records, cores):
    before = {file.name: file.read_bytes() for file in records[0].iterdir()}
    open_records(records[0], cores[0])(records[1].kernel)
    assert {file.name: file.read_bytes() for file in records[0].iterdir()} == before


@can_store
def test_a_line_that_was_cut_off_is_left_out_and_removed_before_more_are_written(records, cores):
    with (records[0] / RECORDS).open("a") as file:
        file.write('[0, [[["GetSB')
    assert len(open_records(records[0], cores[0]).by_workload) == 1
    prepare_directory(records[0])
    assert (records[0] / RECORDS).read_text().endswith("]\n")


@can_store
@pytest.mark.parametrize("line", ["{}", "[5, []]", "[0, [1, 2]]", "nonsense"])
def test_damaged_records_are_a_sentence(records, cores, line):
    with (records[0] / RECORDS).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UsageError, match=r"database_tuning_record\.json is damaged, or was written by another version"):
        open_records(records[0], cores[0])


@can_store
def test_a_damaged_comparison_is_a_sentence(records, cores):
    (records[0] / "cospipe_kernels.json").write_text('{"format": "cospipe-kernels", "version": 2}')
    with pytest.raises(UsageError, match=r"cospipe_kernels\.json is damaged .*--trials 0"):
        open_records(records[0], cores[0])


def test_what_is_no_directory_of_records_is_a_sentence(tmp_path, cores):
    log = tmp_path / "autotvm.log"
    log.write_text(json.dumps({"input": [], "config": {}, "result": [], "version": 0.2}))
    for path, message in [
        (tmp_path / "missing", "There is no directory of tuning records"),
        (log, "autotvm or the auto-scheduler"),
        (tmp_path, "holds no tuning records"),
    ]:
        with pytest.raises(UsageError, match=message):
            open_records(path, cores[0])


def test_records_are_not_written_over_other_files(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="holds no tuning records"):
        prepare_directory(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_tvm_ffi_that_crashes_is_told(monkeypatch):
    monkeypatch.setattr("cospipe.backends.tvm.tuning.database.version", lambda _package: "0.1.15.post2")
    with pytest.raises(UsageError, match=r"pip install 'apache-tvm-ffi<0\.1\.15'"):
        check_can_store()


@can_store
def test_earlier_records_are_copied_once(records, cores, tmp_path_factory):
    compared(records, cores[0], ours_us=2.0, tuned_us=1.0)
    directory = tmp_path_factory.mktemp("new")
    for _ in range(2):
        prepare_directory(directory, earlier=records[0])
        assert trials_done(directory, [records[1]], cores[0]) == 1
    assert open_records(directory, cores[0])(records[1].kernel) is not None
