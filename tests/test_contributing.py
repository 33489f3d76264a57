"""What CONTRIBUTING.md says of places, and the project's own descriptions of itself."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TABLE = [line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if line.startswith("| a ")]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.split("|")[1].strip())
def test_the_places_where_things_go_exist(row: str) -> None:
    places = re.findall(r"`((?:mambarium|configs)/[^`]*)`", row)
    assert len(places) >= 2
    for place in places:
        assert (ROOT / place).is_dir() if place.endswith("/") else (ROOT / place).is_file(), place


def test_every_folder_of_tasks_data_and_operations_is_named() -> None:
    named = "".join(TABLE)
    for folder in ("platform/data/images", "kernels"):
        parts = {path.parent.name for path in (ROOT / "mambarium" / folder).glob("*/__init__.py")}
        parts -= {"dense", "benchmark"}
        assert parts and all(f"mambarium/{folder}/{part}/" in named for part in parts)


def test_one_version_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version


def test_the_pythons_of_the_workflow_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    tested = workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    classified = [text.rpartition(" ")[2] for text in project["classifiers"] if re.search(r"3\.\d+$", text)]
    assert tested == classified and project["requires-python"] == f">={tested[0]}"
