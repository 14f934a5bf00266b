"""The example of the simulator in docs/exploring.md runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "exploring.md"


def test_the_example_runs_and_waiting_makes_a_difference():
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    steady, shaken = (float(line.split()[1]) for line in done.stdout.splitlines())
    assert steady < shaken
