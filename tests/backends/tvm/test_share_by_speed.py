"""Threads that take parts of a kernel as they can: every part once, more of them for the faster thread."""

import ctypes
import platform
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from cospipe.backends.tvm import lower
from cospipe.backends.tvm.link import zig_compile

SOURCE = Path(lower.__file__).with_name("share_by_speed.c")


class Environment(ctypes.Structure):
    _fields_ = (("sync_handle", ctypes.c_void_p), ("num_task", ctypes.c_int32))


LAMBDA = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(Environment), ctypes.c_void_p)
LAUNCH = ctypes.CFUNCTYPE(ctypes.c_int, LAMBDA, ctypes.c_void_p, ctypes.c_int)


@LAUNCH
def two_threads(work, data, tasks):
    """Run one task on each of two threads, as TVM's pool does, and return the last status that is not zero."""
    assert tasks == 0
    statuses = []

    def run(task):
        statuses.append(work(task, ctypes.byref(Environment(None, 2)), data))

    threads = [threading.Thread(target=run, args=(task,), name=f"thread {task}") for task in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return next((status for status in statuses if status), 0)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """What a stage's library has of it: the pointer, which the runtime has set, and the function."""
    folder = tmp_path_factory.mktemp("share")
    (folder / "stage.c").write_text("void* __TVMBackendParallelLaunch;\n")
    zig_compile(["-shared", str(folder / "stage.c"), str(SOURCE)], folder / "stage.so", platform.machine())
    return ctypes.CDLL(str(folder / "stage.so"))


def launched(library, work):
    pointer = LAUNCH.in_dll(library, "__TVMBackendParallelLaunch")
    ctypes.c_void_p.in_dll(library, "__TVMBackendParallelLaunch").value = ctypes.cast(
        two_threads, ctypes.c_void_p
    ).value
    for _ in range(2):  # the second call changes nothing
        assert library.__tvm_ffi_share_by_speed(None, None, 0, None) == 0
    return pointer(LAMBDA(work), None, 0)


def test_every_part_is_computed_once_and_the_faster_thread_computes_more(library):
    parts, threads = [], Counter()

    def work(part, environment, _data):
        name = threading.current_thread().name
        time.sleep(0.02 if name == "thread 1" else 0.002)
        parts.append((part, environment.contents.num_task))
        threads[name] += 1
        return 0

    assert launched(library, work) == 0
    assert sorted(parts) == [(part, 32) for part in range(32)]
    assert threads["thread 0"] > 3 * threads["thread 1"] > 0


def test_a_part_that_fails_ends_the_kernel_with_its_status(library):
    assert launched(library, lambda part, _environment, _data: 7 if part == 3 else 0) == 7


def test_a_library_without_parallel_loops_is_left_alone(tmp_path):
    zig_compile(["-shared", str(SOURCE)], tmp_path / "stage.so", platform.machine())
    assert ctypes.CDLL(str(tmp_path / "stage.so")).__tvm_ffi_share_by_speed(None, None, 0, None) == 0
