"""Imports run one way, and the lower packages need torch and numpy alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mambarium"
LAYERS = ["kernels", "backbones", "tasks", "platform"]


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_no_layer_imports_one_above_it(layer: str) -> None:
    above = LAYERS[LAYERS.index(layer) + 1 :]
    files = list((PACKAGE / layer).rglob("*.py"))
    assert files
    for path in files:
        for module in imported_modules(path):
            parts = module.split(".")
            assert not (parts[0] == "mambarium" and len(parts) > 1 and parts[1] in above), f"{path} imports {module}"


def test_compat_stands_beside_the_layers_on_the_kernels() -> None:
    for layer in LAYERS:
        for path in (PACKAGE / layer).rglob("*.py"):
            assert not any(module.startswith("mambarium.compat") for module in imported_modules(path)), path
    for path in (PACKAGE / "compat").rglob("*.py"):
        ours = {module for module in imported_modules(path) if module.startswith("mambarium.")}
        assert all(module.startswith(("mambarium.compat", "mambarium.kernels")) for module in ours), path


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What Python runs when it imports a module: not the bodies of functions, nor what is for type checkers only."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children = node.orelse
    else:
        yield node
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from run_at_import(child)


def platform_imports(folder: Path) -> dict[str, set[str]]:
    """Which parts of a platform (sub-packages, and modules beside them) import which others at module level."""
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        part = path.relative_to(folder).parts[0].removesuffix(".py")
        modules: set[str] = set()
        for node in run_at_import(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        parts = {module.split(".")[2] for module in modules if module.startswith("mambarium.platform.")}
        found.setdefault(part, set()).update(parts - {part})
    return found


def circle(imports: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_parts_of_the_platform_do_not_import_each_other_in_a_circle() -> None:
    imports = platform_imports(PACKAGE / "platform")
    assert {"cli", "compare", "data", "runs"} <= set(imports)
    assert "runs" in imports["compare"] and "runs" in imports["cli"]
    assert circle(imports) == []


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("from mambarium.platform.one.a import f", ["one", "two", "one"]),
        ("import mambarium.platform.one.a", ["one", "two", "one"]),
        ("try:\n    from mambarium.platform import one\nexcept ImportError:\n    raise", ["one", "two", "one"]),
        ("def g():\n    from mambarium.platform.one.a import f", []),
        ("if TYPE_CHECKING:\n    from mambarium.platform.one.a import f", []),
    ],
)
def test_a_circle_would_be_seen(tmp_path: Path, statement: str, expected: list[str]) -> None:
    for name, text in (("one", "from mambarium.platform.two import a"), ("two", statement)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text(text + "\n")
    assert sorted(set(circle(platform_imports(tmp_path)))) == sorted(set(expected))


def test_kernels_and_backbones_import_with_torch_and_numpy_alone() -> None:
    program = """
import importlib.metadata as metadata
import re
import sys

def requirements(name, seen):
    if name not in seen:
        seen.add(name)
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            return seen
        for line in lines:
            if "extra ==" not in line:
                requirements(re.split(r"[ ;<>=!~(\\[]", line)[0].lower().replace("_", "-"), seen)
    return seen

allowed = requirements("numpy", requirements("torch", set())) - {"triton"}
absent = {
    module
    for module, names in metadata.packages_distributions().items()
    if module != "mambarium" and not any(name.lower().replace("_", "-") in allowed for name in names)
}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

assert {"triton", "numba", "lightning", "torchvision"} <= absent
sys.meta_path.insert(0, Absent())
import mambarium.kernels, mambarium.backbones
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_the_command_line_answers_help_without_heavy_imports() -> None:
    program = """
import sys
from mambarium.platform.cli import main
code = main(["--help"])
assert not {"torch", "lightning", "numpy", "jsonargparse"} & set(sys.modules), "heavy imports"
sys.exit(code)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    for command in ("fit", "validate", "test", "predict", "compare"):
        assert command in finished.stdout
