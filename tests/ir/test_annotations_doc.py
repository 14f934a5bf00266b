"""``docs/annotations.md`` lists exactly the annotations there are."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "annotations.md"

# every module is imported, so that a key defined outside ir/annotations.py is found as well
LIST_KEYS = """
import json, pkgutil
from importlib import import_module
import cospipe.ir, cospipe.passes
from cospipe.ir import annotations
from cospipe.ir.meta import MetaKey

for package in (cospipe.ir, cospipe.passes):
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
names = {id(value): name for name, value in vars(annotations).items() if isinstance(value, MetaKey)}
rows = [
    [key.name, names.get(id(key)), key.writer, sorted(aspect.value for aspect in key.depends_on)]
    for key in MetaKey.registry.values()
]
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def keys():
    # a process of its own: other tests may define keys
    done = subprocess.run([sys.executable, "-c", LIST_KEYS], capture_output=True, text=True, timeout=120, check=True)
    return {name: rest for name, *rest in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def rows():
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_every_key_has_its_row(keys, rows):
    assert sorted(rows) == sorted(keys)


def test_rows_say_what_the_code_says(keys, rows):
    for name, (constant, writer, depends_on) in keys.items():
        documented_constant, _, _, documented_writer, _, stale = rows[name]
        assert documented_constant == f"`{constant}`"
        assert documented_writer == f"`{writer}`"
        assert sorted(re.split(r",\s*", stale)) == depends_on


def test_units_in_names_are_the_documented_units(keys, rows):
    units = {"_us": "µs", "_bytes": "bytes"}
    for name in keys:
        expected = [unit for suffix, unit in units.items() if name.endswith(suffix)]
        assert not expected or rows[name][2] == expected[0]
