"""What other programs' failures are told as."""

import subprocess
import sys

import pytest

from cospipe.ir.errors import said_by


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import sys; sys.exit('no such option')", "no such option"),
        ("raise SystemExit(3)", "it ended with status 3 and said nothing"),
        ("import os; os.abort()", "SIGABRT ended it and it said nothing; is the disk full, or memory short?"),
        (
            "import os; os.kill(os.getpid(), 35)",
            "signal 35 ended it and it said nothing; is the disk full, or memory short?",
        ),
    ],
)
def test_a_failed_program_is_told_by_its_words_or_its_end(program, told):
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert said_by(finished) == told
