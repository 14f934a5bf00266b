"""The clock that times what a virtual machine calls, in this process."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from cospipe.backends.tvm.kernel_clock import INSTRUMENT, KernelClock, build_clock
from cospipe.backends.tvm.sessions import LocalSession
from cospipe.ir.errors import RemoteError
from cospipe.ir.host import ARCHITECTURES

SLEEP_S = 0.02


@I.ir_module
class Sleeping:
    """Calls a function that sleeps, twice, and one that does nothing."""

    @R.function
    def main(x: R.Tensor((1,), "float32")):
        first = R.call_dps_packed("test_kernel_clock.sleep", (x,), R.Tensor((1,), "float32"))
        second = R.call_dps_packed("test_kernel_clock.nothing", (first,), R.Tensor((1,), "float32"))
        third = R.call_dps_packed("test_kernel_clock.sleep", (second,), R.Tensor((1,), "float32"))
        return third


@pytest.fixture(scope="module")
def clock(tmp_path_factory):
    library = build_clock(tmp_path_factory.mktemp("clock"), ARCHITECTURES[os.uname().machine])
    return KernelClock(LocalSession(), library)


@pytest.fixture(scope="module")
def machine(clock):
    tvm.register_global_func("test_kernel_clock.sleep", lambda _x, _out: time.sleep(SLEEP_S), override=True)
    tvm.register_global_func("test_kernel_clock.nothing", lambda _x, _out: None, override=True)
    made = relax.VirtualMachine(tvm.compile(Sleeping, target="llvm"), tvm.cpu())
    made.module["set_instrument"](INSTRUMENT)
    return made


def run(machine):
    machine["main"](tvm.runtime.tensor(np.zeros(1, "float32")))


def test_names_and_times_of_calls(clock, machine):
    clock.start(notes_names=True)
    run(machine)
    times = list(zip(clock.names(), clock.times_ns(), strict=True))
    timed = [(name.rpartition(".")[2], ns) for name, ns in times if name.startswith("test_kernel_clock")]
    assert [name for name, _ in timed] == ["sleep", "nothing", "sleep"]
    slept, nothing, slept_again = (abs(ns) / 1e9 for _, ns in timed)
    assert SLEEP_S <= slept < 1
    assert SLEEP_S <= slept_again < 1
    assert nothing < SLEEP_S


def test_a_start_forgets(clock, machine):
    clock.start(notes_names=True)
    run(machine)
    calls = len(clock.times_ns())
    clock.start()
    assert clock.times_ns() == clock.names() == []
    run(machine)
    assert len(clock.times_ns()) == calls
    assert clock.names() == []


def test_files_are_read(clock, tmp_path):
    (tmp_path / "governor").write_text("performance\n")
    assert clock.read(str(tmp_path / "governor")) == "performance\n"
    assert clock.read(str(tmp_path / "none")) == ""
    assert clock.read("/sys") == ""


def test_switches_are_counted(clock):
    before = clock.switches()
    assert 0 <= before <= clock.switches()


def in_a_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_cores_are_those_of_the_calling_thread(clock):
    core = min(os.sched_getaffinity(0))

    def pinned():
        clock.use_cores([core])
        return os.sched_getaffinity(0)

    before = os.sched_getaffinity(0)
    assert in_a_thread(pinned) == {core}
    assert os.sched_getaffinity(0) == before


def test_cores_that_are_not_there(clock):
    def pinned():
        with pytest.raises(RemoteError, match="cannot run on cpu 1000: these cores do not exist"):
            clock.use_cores([1000])
        return True

    assert in_a_thread(pinned)


def test_the_reference_takes_as_long_as_its_chain_of_steps(clock):
    # a million multiply-adds that wait for each other, three clock cycles each at least; no core reaches 7 GHz
    assert clock.reference_us() > 2**20 * 3 / 7e3


def test_the_file_of_a_loaded_library(clock):
    assert Path(clock.library("libtvm_runtime.so")).samefile(Path(tvm.__file__).parent / "lib" / "libtvm_runtime.so")
    assert clock.library("libtvm_nothing.so") == ""
