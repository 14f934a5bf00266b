"""cospipe-run for this machine, built by its own g++: a quarter of the time that zig takes with its C++ library."""

import platform

from cospipe.backends.board.options import RunnerOptions


def native_runner():
    """Return options that build the runner for the C library of this machine."""
    return RunnerOptions(platform.libc_ver()[1], cross_compiler="g++")
