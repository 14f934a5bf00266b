"""Starts cospipe-run, with TVM's runtime or the fake one."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from cpp_build import ENVIRONMENT, SANITIZERS, built, is_newer, locked, run, tvm_ffi_include

FAKE_RUNTIME = Path(__file__).with_name("fake_runtime.cpp")
PATIENCE_S = 60
"""Nothing here takes a second; what takes longer than this hangs."""


@dataclass
class Ended:
    """What a run of the program left behind."""

    status: int
    output: bytes
    errors: str

    @property
    def statistics(self):
        return json.loads(self.output)


@dataclass(frozen=True)
class CppRunner:
    """A build of cospipe-run, and the TVM runtime to give it; None for the one in the bundle."""

    program: Path
    runtime: Path | None
    environment: dict = field(default_factory=dict)

    def command(self, bundle, *options):
        runtime = [] if self.runtime is None else ["--runtime", str(self.runtime)]
        return [str(self.program), str(getattr(bundle, "path", bundle)), *runtime, *map(str, options)]

    def run(self, bundle, *options, stdin=b"", **process):
        """Run it to its end."""
        with self.started(bundle, *options, **process) as started:
            return started.ended(stdin)

    @contextmanager
    def started(self, bundle, *options, prefix=(), **process):
        """Start it; it is killed when the block is left."""
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = {**os.environ, **ENVIRONMENT, **self.environment}
        command = [*prefix, *self.command(bundle, *options)]
        with subprocess.Popen(command, bufsize=0, **{**streams, "env": environment, **process}) as popen:
            try:
                yield Started(popen)
            finally:
                popen.kill()


@dataclass
class Started:
    """A running cospipe-run."""

    popen: subprocess.Popen

    def ended(self, stdin=None):
        """Wait for its end. No sanitizer may have found anything."""
        output, errors = self.popen.communicate(stdin or None, timeout=PATIENCE_S)
        ended = Ended(self.popen.returncode, output or b"", (errors or b"").decode(errors="replace"))
        assert "Sanitizer" not in ended.errors, ended.errors
        assert "runtime error:" not in ended.errors, ended.errors
        assert ended.status >= 0 or ended.status == -signal.SIGKILL, ended
        return ended

    def signal(self, number):
        self.popen.send_signal(number)

    def feed(self, data):
        self.popen.stdin.write(data)

    def read(self, count):
        """Read so many bytes from its standard output; fewer at its end."""
        found = b""
        while len(found) < count and (more := self.popen.stdout.read(count - len(found))):
            found += more
        return found


def wait_until(condition, what="something"):
    """Wait until a condition holds."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, f"waited for {what} in vain"
        time.sleep(0.005)


def fake_runner(kind):
    """Return cospipe-run with a sanitizer (``address``, ``thread``) or none (``plain``), and the fake TVM runtime."""
    folder = built(kind)
    return CppRunner(folder / "cospipe-run", _fake_runtime(kind, folder))


def real_runner(folder):
    """Return cospipe-run, with a directory of TVM's own libraries."""
    import tvm_ffi

    (tvm_folder,) = importlib.util.find_spec("tvm").submodule_search_locations
    libraries = [
        Path(tvm_ffi.__file__).parent / "lib" / "libtvm_ffi.so",
        Path(tvm_folder) / "lib" / "libtvm_runtime.so",
    ]
    for library in libraries:
        shutil.copyfile(library, folder / library.name)
    return CppRunner(built("plain") / "cospipe-run", folder)


@cache
def _fake_runtime(kind, folder):
    runtime = folder / "fake_runtime"
    ffi, pool = runtime / "libtvm_ffi.so", runtime / "libtvm_runtime.so"
    with locked(runtime):
        if is_newer(pool, [FAKE_RUNTIME]):
            return runtime
        warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-isystem", tvm_ffi_include()]
        common = ["g++", "-std=c++17", "-O1", "-g1", *SANITIZERS[kind], *warnings, "-ffp-contract=off"]
        common += ["-fPIC", "-shared", "-fvisibility=hidden", FAKE_RUNTIME]
        run([*common, "-o", ffi])
        run([*common, "-DFAKE_POOL", ffi, "-Wl,-rpath,$ORIGIN", "-o", pool])
    return runtime
