"""What is told of clocks and lost cores, from files of a made-up machine and threads of this one."""

import os
import pickle
import threading

import pytest

from cospipe.backends.runtime.machine_monitor import MachineMonitor, PinnedThread

CLOCK = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
NOMINAL = "/sys/devices/system/cpu/cpu{}/cpufreq/cpuinfo_max_freq"
ONLINE = "/sys/devices/system/cpu/online"


def monitor_of(files, cpus):
    return MachineMonitor(cpus, lambda file: files.get(file, ""))


def seen(clocks_mhz, nominal_mhz=2000):
    """Return a monitor of cpu 4 that has seen these clocks."""
    files = {NOMINAL.format(4): f"{nominal_mhz}000\n" if nominal_mhz else ""}
    monitor = monitor_of(files, [4])
    for clock_mhz in clocks_mhz:
        files[CLOCK.format(4)] = f"{clock_mhz}000\n"
        monitor.sample([])
    return monitor


def test_clocks_are_told_of_the_cores_that_tell_them():
    files = {CLOCK.format(0): "1800000\n", NOMINAL.format(0): "2000000\n", CLOCK.format(1): "900000"}
    monitor = monitor_of(files, [0, 1, 2])
    monitor.sample([])
    files[CLOCK.format(0)] = "600000"
    monitor.sample([])
    monitor.sample([])
    assert monitor.clocks() == {
        "0": {"lowest": 600, "median": 600, "highest": 1800, "nominal": 2000},
        "1": {"lowest": 900, "median": 900, "highest": 900, "nominal": None},
    }


def test_a_machine_that_tells_nothing_gives_no_clocks_and_no_warnings():
    monitor = monitor_of({}, [0, 1])
    monitor.sample([])
    assert (monitor.clocks(), monitor.warnings(), monitor.lost_cores()) == ({}, [], [])


def test_slow_clocks_are_a_warning():
    (warning,) = seen([2000, 1700, 1799, 1200]).warnings()
    assert warning.startswith("cpu 4 ran below 90% of its 2000 MHz in 3 of 4 samples, at 1700 MHz in the median")


@pytest.mark.parametrize(
    ("clocks_mhz", "nominal_mhz"),
    [([2000, 1800, 1800, 1200], 2000), ([1000, 1000, 2000, 2000], 2000), ([1000] * 4, None), ([1000, 1000], 2000)],
    ids=["90 % is enough", "half of the samples", "nobody knows the nominal clock", "too few samples"],
)
def test_other_clocks_are_none(clocks_mhz, nominal_mhz):
    assert seen(clocks_mhz, nominal_mhz).warnings() == []


def test_memory_does_not_grow_with_the_samples():
    few, many = seen(range(1000, 1100)), seen(list(range(1000, 1100)) * 20)
    sizes = [len(pickle.dumps((monitor._seen_mhz, monitor._lost))) for monitor in (few, many)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.2)


def test_a_core_that_goes_offline_is_lost_even_when_it_comes_back():
    files = {ONLINE: "0-5\n"}
    monitor = monitor_of(files, [3, 4])
    monitor.sample([])
    assert monitor.lost_cores() == []
    files[ONLINE] = "0-3,5\n"
    monitor.sample([])
    files[ONLINE] = "0-5\n"
    monitor.sample([])
    assert monitor.lost_cores() == monitor.warnings() == ["cpu 4 went offline while the pipeline ran."]


def test_a_core_that_this_process_may_use_no_more_is_lost(monkeypatch):
    allowed = {0, 3, 4}
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: set(allowed))
    monitor = monitor_of({}, [3, 4, 9])
    monitor.sample([])
    assert monitor.lost_cores() == []
    allowed.remove(4)
    monitor.sample([])
    assert monitor.lost_cores() == ["This process may use cpu 4 no more."]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_thread_that_is_moved_away_is_told_once():
    first, second = sorted(os.sched_getaffinity(0))[:2]
    stop, started = threading.Event(), threading.Event()

    def work():
        os.sched_setaffinity(0, {first})
        started.set()
        stop.wait()

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(5)
    pinned = [PinnedThread("stage0", thread.native_id, (first,))]
    monitor = monitor_of({}, [first])
    monitor.sample(pinned)
    assert monitor.lost_cores() == []
    os.sched_setaffinity(thread.native_id, {second})
    monitor.sample(pinned)
    monitor.sample(pinned)
    stop.set()
    thread.join()
    assert monitor.lost_cores() == [f"stage0 was moved from cpu {first} to cpu {second} while it ran."]


def test_a_thread_that_has_ended_is_not_looked_at():
    monitor = monitor_of({}, [0])
    monitor.sample([PinnedThread("stage0", 2**22 + 1, (0,))])  # beyond the highest number of a thread
    assert monitor.lost_cores() == []
