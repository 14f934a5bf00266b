"""Calls the ``cospipe`` command in this process, which spares an import of torch a call."""

import subprocess
import sys

import pytest

from cospipe.cli import main


def caller(folder, monkeypatch, capsys):
    """Return a function that runs the command with some arguments inside a folder."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["cospipe", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code, captured.out, captured.err)

    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return call
