"""The C++ code for frames, placement and the machine monitor as a small program under the sanitizers."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
from cpp_build import ENVIRONMENT, driver
from cpp_readers import Refused

PROGRAM_SOURCE = Path(__file__).with_suffix(".cpp")


def started(*arguments, **process):
    """Start the program with pipes to it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [driver(PROGRAM_SOURCE), *map(str, arguments)], env=os.environ | ENVIRONMENT, **(pipes | process)
    )


def ended(process, stdin=None):
    """Return what a started program answers; raise what it refuses, and fail when it crashed."""
    output, errors = process.communicate(stdin, timeout=60)
    assert process.returncode == 0, errors.decode(errors="replace")
    answer = json.loads(output.splitlines()[-1])
    if "error" in answer:
        raise Refused(answer["error"], answer["is_usage"])
    return answer["value"]


def act(*arguments, stdin=None, **process):
    """Run the program to its end."""
    return ended(started(*arguments, **process), stdin)


def write_plan(folder, **plan):
    """Write what the program needs of a manifest; return the file."""
    file = folder / "plan.json"
    file.write_text(json.dumps(plan))
    return file


def array_of(answer):
    """Return the array that the program printed."""
    return np.frombuffer(bytes.fromhex(answer["data"]), answer["dtype"]).reshape(answer["shape"])
