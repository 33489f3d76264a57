"""Imports run one way, and the lower packages need torch and numpy alone."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mambarium"

FLOORS = [
    ["errors"],
    ["trust", "files", "inherited_options", "private_names"],
    ["kernels"],
    ["backbones", "compat"],
    ["tasks"],
    ["platform"],
    ["__main__"],
]
"""What a package may import lies in its own row, in itself, or in a row before."""

PLATFORM_FLOORS = [
    ["randomness", "yaml_files", "suggestions", "freed_memory", "worker_signals"],
    ["position"],
    ["data", "runs"],
    ["callbacks", "compare"],
    ["cli"],
]

DATA_FLOORS = [["core"], ["text", "images"], ["synthetic"]]

IMAGE_FLOORS = [["dense"], ["classification", "detection", "segmentation"]]
"""Sub-packages of images; files beside them lie below."""

LARGEST_FOLDER = 16


def imported_names(path: Path) -> set[str]:
    """Every module or name of one that a file imports, also inside functions, but not for type checkers alone."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        pending += ast.iter_child_nodes(node)
    return found


def modules_below(root: Path) -> dict[str, Path]:
    """All modules of a package by their dotted names."""
    names = {path: ".".join(path.relative_to(root.parent).with_suffix("").parts) for path in root.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def file_imports(root: Path) -> dict[str, set[str]]:
    """Which modules of a package each of them imports, packages of its own folder names left out."""
    modules = modules_below(root)
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = set()
        for imported in imported_names(path):
            while imported and imported not in modules:
                imported = imported.rpartition(".")[0]
            found.add(imported)
        graph[name] = found - {"", name}
    return graph


def circle(imports: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def upward(imports: dict[str, set[str]], package: str, floors: list[list[str]]) -> list[str]:
    """Imports from a part of a package to a part of a higher floor, or beside it on the same one."""
    floor = {part: index for index, parts in enumerate(floors) for part in parts}

    def part_of(module: str) -> str | None:
        inside = module.removeprefix(f"{package}.")
        part = inside.split(".")[0]
        return part if module != inside and part in floor else None

    found = []
    for module, imported in imports.items():
        for other in imported:
            lower, upper = part_of(module), part_of(other)
            if lower is not None and upper is not None and lower != upper and floor[lower] <= floor[upper]:
                found.append(f"{module} imports {other}")
    return sorted(found)


IMPORTS = file_imports(PACKAGE)


def test_every_part_has_its_floor() -> None:
    for folder, floors, others in (
        (PACKAGE, FLOORS, set()),
        (PACKAGE / "platform", PLATFORM_FLOORS, set()),
        (PACKAGE / "platform" / "data", DATA_FLOORS, set()),
    ):
        parts = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
        assert parts - {"__init__", "__pycache__"} - others == {part for parts in floors for part in parts}, folder


@pytest.mark.parametrize(
    ("package", "floors"),
    [
        ("mambarium", FLOORS),
        ("mambarium.platform", PLATFORM_FLOORS),
        ("mambarium.platform.data", DATA_FLOORS),
        ("mambarium.platform.data.images", IMAGE_FLOORS),
    ],
)
def test_imports_run_one_way(package: str, floors: list[list[str]]) -> None:
    assert upward(IMPORTS, package, floors) == []


def test_what_all_images_share_knows_none_of_their_tasks() -> None:
    folder = "mambarium.platform.data.images"
    special = tuple(f"{folder}.{part}" for parts in IMAGE_FLOORS for part in parts)
    shared = {
        name: found for name, found in IMPORTS.items() if name.startswith(folder) and not name.startswith(special)
    }
    assert shared
    assert [
        f"{name} imports {other}" for name, found in shared.items() for other in found if other.startswith(special)
    ] == []


def test_compat_knows_the_kernels_alone() -> None:
    found = {other for name, found in IMPORTS.items() if name.startswith("mambarium.compat") for other in found}
    assert all(other.startswith(("mambarium.compat", "mambarium.kernels")) for other in found)


def test_no_circle_of_files() -> None:
    assert circle(IMPORTS) == []


PRIVATE_NAMES = "private_names"
"""The folder in which each has its reason, and a test."""

PUBLIC = {"_asdict", "_fields", "_replace", "_exit"}
"""Public by Python's documentation."""


def private_names_used(path: Path, defined: set[str]) -> set[str]:
    """Private names that a file imports from a dependency, or that nothing in the package defines."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(("mambarium", "__future__")):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            found |= {name for name in names if name.startswith("_") and not name.startswith("__")}
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            found |= {node.attr} - defined - PUBLIC
    return found


def test_private_names_of_dependencies_have_one_place() -> None:
    defined = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.attr if isinstance(node, ast.Attribute) else node.id)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                defined.add(node.target.id)
    used = {
        path.relative_to(PACKAGE).as_posix(): names
        for path in PACKAGE.rglob("*.py")
        if (names := private_names_used(path, defined))
    }
    assert {path: names for path, names in used.items() if not path.startswith(PRIVATE_NAMES)} == {}


def test_no_folder_is_a_heap() -> None:
    counts = {folder: len(list(folder.glob("*.py"))) for folder in {path.parent for path in PACKAGE.rglob("*.py")}}
    assert {str(folder): count for folder, count in counts.items() if count > LARGEST_FOLDER} == {}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("from house.one.a import f", ["house.one.a", "house.two.a", "house.one.a"]),
        ("import house.one.a", ["house.one.a", "house.two.a", "house.one.a"]),
        ("def g():\n    from house.one import a", ["house.one.a", "house.two.a", "house.one.a"]),
        ("if TYPE_CHECKING:\n    from house.one.a import f", []),
    ],
)
def test_a_circle_would_be_seen(tmp_path: Path, statement: str, expected: list[str]) -> None:
    root = tmp_path / "house"
    for name, text in (("one", "from house.two.a import b"), ("two", statement)):
        (root / name).mkdir(parents=True)
        (root / name / "a.py").write_text(text + "\n")
    imports = file_imports(root)
    assert sorted(set(circle(imports))) == sorted(set(expected))
    assert bool(upward(imports, "house", [["two"], ["one"]])) == bool(expected)


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
