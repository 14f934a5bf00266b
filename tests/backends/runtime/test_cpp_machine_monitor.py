"""The C++ runner notices slow and lost cores as the Python runner does."""

import json
import os

import pytest
from cpp_frames import ended, started

from cospipe.backends.runtime.machine_monitor import MachineMonitor, PinnedThread


class FakeSys:
    """A /sys that a test can change."""

    def __init__(self, folder):
        self.folder = folder

    def write(self, **files):
        for name, text in files.items():
            cpu, _, kind = name.partition("_")
            clock = {"now": "cpufreq/scaling_cur_freq", "most": "cpufreq/cpuinfo_max_freq"}.get(kind, "")
            file = self.folder / "devices" / "system" / "cpu" / cpu / clock
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def read(self, path):
        file = self.folder / path.removeprefix("/sys/")
        return file.read_text() if file.exists() else ""


@pytest.fixture
def sys(tmp_path):
    fake = FakeSys(tmp_path)
    fake.write(online="0-5\n", cpu4_most="2000000\n", cpu4_now="2000000\n", cpu5_most="2000000\n")
    return fake


def both(sys, cpus, changes, thread_cpus=None):
    """Sample once after each change; return what the C++ and the Python monitor say."""
    thread = () if thread_cpus is None else (json.dumps(thread_cpus),)
    process = started("monitor", sys.folder, json.dumps(cpus), len(changes), *thread)
    python = MachineMonitor(cpus, sys.read)
    threads = [] if thread_cpus is None else [PinnedThread("stage0 (big:1)", process.pid, tuple(thread_cpus))]
    for change in changes:
        assert process.stderr.readline() == b"ready\n"
        change()
        python.sample(threads)
        process.stdin.write(b"\n")
        process.stdin.flush()
    clocks = {cpu: [number or 0 for number in clock.values()] for cpu, clock in python.clocks().items()}
    return ended(process), {"clocks": clocks, "warnings": python.warnings(), "lost": python.lost_cores()}


def clock(sys, khz):
    return lambda: sys.write(cpu4_now=f"{khz}\n")


@pytest.mark.parametrize(
    ("clocks_khz", "is_slow"),
    [
        ([2000000, 1000000, 1000000, 1500000], True),
        ([2000000, 2000000, 1000000, 1000000], False),
        ([1000000, 1000000], False),
        ([1800000, 1799400, 1700000], True),
    ],
)
def test_throttling(sys, clocks_khz, is_slow):
    found, expected = both(sys, [4, 5], [clock(sys, khz) for khz in clocks_khz])
    assert found == expected
    assert any("cpu 4 ran below 90%" in text for text in found["warnings"]) == is_slow
    assert found["clocks"]["4"] == [min(clocks_khz) // 1000, found["clocks"]["4"][1], max(clocks_khz) // 1000, 2000]
    assert (list(found["clocks"]), found["lost"]) == (["4"], [])


def test_a_machine_that_tells_nothing_or_nonsense(tmp_path):
    fake = FakeSys(tmp_path)
    fake.write(cpu4_now="fast\n", cpu4_most="-1\n", cpu5_now="0\n")
    found, expected = both(fake, [4, 5], [lambda: None] * 4)
    assert found == expected == {"clocks": {}, "warnings": [], "lost": []}


def test_a_core_that_goes_offline_is_told_once(sys):
    found, expected = both(sys, [3, 4], [lambda: None, lambda: sys.write(online="0-3,5\n"), lambda: None])
    assert found == expected
    assert found["lost"] == ["cpu 4 went offline while the pipeline ran."]


def test_threads_that_are_elsewhere(sys):
    allowed = sorted(os.sched_getaffinity(0))
    assert both(sys, [4], [lambda: None], allowed)[0]["lost"] == []
    found, expected = both(sys, [4], [lambda: None] * 2, [*allowed, 4000])
    assert found == expected
    (sentence,) = found["lost"]
    assert sentence.startswith("stage0 (big:1) was moved from cpu ")


def test_threads_that_may_be_everywhere(sys):
    assert ended(started("monitor", sys.folder, "[4]", 1, "[]"), b"\n")["lost"] == []
