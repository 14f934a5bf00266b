"""Python in README and docs/ runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(arguments, folder):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_quick_start_of_the_readme(tmp_path):
    script, _ = python_blocks("README.md")
    done = run(["-c", script], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "a result every" in done.stdout
    assert (tmp_path / "build" / "resnet18" / "manifest.json").is_file()


@pytest.mark.slow
def test_adapters_of_the_readme(tmp_path):
    _, script = python_blocks("README.md")
    done = run(["-c", f"{script}\nprint([abs(before[name] - after[name]).max() for name in before])"], tmp_path)
    assert done.returncode == 0, done.stderr
    (change,) = map(float, re.findall(r"[\d.]+(?:e-?\d+)?", done.stdout.splitlines()[-1].replace("np.float32", "")))
    assert change > 1e-3


def test_example_pass_passes_its_example_test(tmp_path):
    example, test = python_blocks("docs/writing-a-pass.md")
    (tmp_path / "drop_repeated_relu.py").write_text(example)
    (tmp_path / "test_drop_repeated_relu.py").write_text(test)
    done = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "."], tmp_path)
    assert done.returncode == 0, done.stdout
    assert f"{test.count('def test_')} passed" in done.stdout


def test_example_pass_has_the_style_of_the_project(tmp_path):
    for name, block in zip(("example.py", "test_example.py"), python_blocks("docs/writing-a-pass.md"), strict=True):
        (tmp_path / name).write_text(block)
    configured = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    as_tests = ["--extend-per-file-ignores", "test_example.py:D,test_example.py:ANN"]
    rules = run(["-m", "ruff", "check", *configured, *as_tests, "."], tmp_path)
    assert rules.returncode == 0, rules.stdout
    layout = run(["-m", "ruff", "format", *configured, "--check", "."], tmp_path)
    assert layout.returncode == 0, layout.stdout


@pytest.mark.parametrize("which", [0, 1, 2])
def test_examples_of_adapters(tmp_path, which):
    done = run(["-c", python_blocks("docs/adapters.md")[which]], tmp_path)
    assert done.returncode == 0, done.stderr


def test_adapters_page_shows_three_examples():
    assert len(python_blocks("docs/adapters.md")) == 3
