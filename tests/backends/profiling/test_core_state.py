"""What sysfs tells of clocks and governors."""

from cospipe.backends.profiling.core_state import clocks_mhz, governor, mean_clocks_mhz, read_here

FILES = {
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000\n",
    "/sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1416500\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    "/sys/devices/system/cpu/cpu2/cpufreq/scaling_governor": "schedutil\n",
}


def read(file):
    return FILES.get(file, "")


def test_clocks_are_megahertz():
    assert clocks_mhz((0, 1), read) == (1800.0, 1416.5)


def test_a_machine_that_does_not_tell_all_tells_nothing():
    assert clocks_mhz((0, 2), read) == ()
    assert clocks_mhz((0,), lambda _: "unknown") == ()


def test_governors():
    assert governor((0, 1), read) == "performance"
    assert governor((1, 2), read) == "performance, schedutil"
    assert governor((3,), read) is None


def test_mean_of_before_and_after():
    assert mean_clocks_mhz((1000.0, 2000.0), (2000.0, 2000.0)) == (1500.0, 2000.0)
    assert mean_clocks_mhz((1000.0,), ()) == ()


def test_files_of_this_machine(tmp_path):
    (tmp_path / "clock").write_text("1800000")
    assert read_here(str(tmp_path / "clock")) == "1800000"
    assert read_here(str(tmp_path / "none")) == ""
