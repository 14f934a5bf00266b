"""The C++ readers of bundles, safetensors and adapters as a small program under the sanitizers."""

import json
import os
import subprocess
from pathlib import Path

import cpp_build

PROGRAM_SOURCE = Path(__file__).with_suffix(".cpp")


class Refused(Exception):
    """An error that a C++ reader gave; ``is_usage`` where the program ends with status 2."""

    def __init__(self, message, is_usage):
        super().__init__(message)
        self.is_usage = is_usage


def read(*arguments):
    """Return what the C++ readers read of files; raise what they refuse, and fail when they crash."""
    command = [cpp_build.driver(PROGRAM_SOURCE), *map(str, arguments)]
    environment = os.environ | cpp_build.ENVIRONMENT
    done = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise Refused(answer["error"], answer["is_usage"])
    return answer["value"]
