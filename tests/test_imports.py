"""Imports run one way, ``ir`` <- ``passes`` <- ``backends`` <- ``cospipe``, and running a bundle stays light."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import cospipe

ROOT = Path(__file__).parents[1]
LAYERS = ("ir", "passes", "backends", "cospipe")
HEAVY = ("torch", "networkx", "tvm")
RUNTIME = "cospipe.backends.runtime"


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "cospipe" else ("cospipe", *parts)
    return ".".join(part for part in parts if part != "__init__")


FILES = {module_name(path): path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))}


def layer_of(module):
    """Position in LAYERS of a module of this project."""
    second = module.split(".")[1] if "." in module else ""
    return LAYERS.index(second) if second in LAYERS[:3] else 3


def imported(tree):
    """Names of the modules that a syntax tree imports anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            # "from cospipe.ir import plan" imports cospipe.ir.plan, "from cospipe.ir.plan import StagePlan" does not
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [name for name in submodules if name in FILES] or [node.module]


def all_imports(module):
    return set(imported(ast.parse(FILES[module].read_text(encoding="utf-8"))))


def runtime_imports(module):
    """What importing a module imports: nothing inside functions, nothing for type checkers only."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    lazy = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lazy += [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    for node in lazy:
        node.body = [ast.Pass()]
    return set(imported(tree))


def with_packages(module):
    """A module and the packages it lies in, which are imported before it."""
    parts = module.split(".")
    return {".".join(parts[: end + 1]) for end in range(len(parts))}


def reachable(modules):
    """All modules that importing some modules imports, this project's and others."""
    found, waiting = set(), {name for module in modules for name in with_packages(module)}
    while waiting:
        module = waiting.pop()
        found.add(module)
        if module in FILES:
            waiting |= {name for read in runtime_imports(module) for name in with_packages(read)} - found
    return found


def top_level(modules):
    return {module.split(".")[0] for module in modules}


def run_bundle_modules():
    return sorted(module for module in FILES if module.startswith(RUNTIME) or module == "cospipe.backends.bundle")


def test_all_layers_have_files():
    assert {layer_of(module) for module in FILES} == {0, 1, 2, 3}
    assert len(run_bundle_modules()) > 5


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_run_one_way(module):
    ours = [name for name in all_imports(module) if name.split(".")[0] == "cospipe"]
    above = [name for name in ours if layer_of(name) > layer_of(module)]
    assert not above, f"{module} imports {above}"


@pytest.mark.parametrize("module", sorted(FILES))
def test_only_the_tvm_backend_imports_tvm(module):
    if not module.startswith("cospipe.backends.tvm"):
        assert "tvm" not in top_level(all_imports(module))


def test_running_a_bundle_reaches_nothing_heavy():
    found = reachable(run_bundle_modules())
    assert "cospipe.ir.manifest" in found
    assert not top_level(found) & set(HEAVY)


PLAIN = (
    "adapter_file",
    "adapter_summary",
    "errors",
    "manifest",
    "plan",
    "simulator",
    "soc",
    "spectral_config",
    "tensor_file",
)


@pytest.mark.parametrize("module", [*(f"cospipe.ir.{name}" for name in PLAIN), "cospipe.cli"])
def test_plain_descriptions_reach_nothing_heavy(module):
    assert not top_level(reachable([module])) & set(HEAVY)


def test_optional_packages_are_imported_where_they_are_used_only():
    found = top_level(reachable(module for module in FILES if module.startswith("cospipe.backends.finetune")))
    assert "torch" in found
    assert not found & {"PIL", "transformers"}


def test_the_check_sees_heavy_imports():
    assert top_level(reachable(["cospipe.ir.capture"])) >= {"torch"}
    assert top_level(reachable(["cospipe.passes.search"])) >= {"networkx"}
    assert top_level(reachable(["cospipe.backends.tvm.lower"])) >= {"tvm"}


def test_running_a_bundle_loads_nothing_heavy():
    # the TVM runtime itself as well: it comes through tvm_ffi, which would like to import torch
    names = ", ".join([*run_bundle_modules(), "cospipe.cli"])
    code = f"""
import sys
import {names}
from cospipe import PipelineRunner, load_soc, open_bundle
from {RUNTIME}.tvm_runtime import load_runtime
load_soc("rk3588")
load_runtime()
print(*sorted({set(HEAVY)!r} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("folder", LAYERS)
def test_types_are_marked(folder):
    assert (ROOT / folder / "py.typed").is_file()


def test_names_of_the_front_door_exist_and_are_documented():
    values = {name: getattr(cospipe, name) for name in cospipe.__all__}
    code = {name: value for name, value in values.items() if inspect.isclass(value) or inspect.isroutine(value)}
    assert set(values) - set(code) == {"__version__"}
    # a dataclass without a docstring gets its signature as one
    assert [name for name, value in code.items() if (value.__doc__ or f"{name}(").startswith(f"{name}(")] == []


def test_public_methods_of_the_front_door_are_documented():
    classes = [getattr(cospipe, name) for name in cospipe.__all__ if inspect.isclass(getattr(cospipe, name))]
    undocumented = [
        f"{owner.__name__}.{name}"
        for owner in classes
        for name, value in vars(owner).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
        if not value.__doc__
    ]
    assert undocumented == []
