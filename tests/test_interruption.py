"""The exit code of an interrupted command."""

import subprocess
import sys

PROGRAM = """
from cospipe.interruption import exit_interrupted

def interrupted():
    raise KeyboardInterrupt

try:
    exec("interrupted()")
except KeyboardInterrupt:
    exit_interrupted()
"""


def test_an_interruption_inside_exec_has_an_exit_code(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, "-m", "program"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")
