"""Which files of a folder are taken for images."""

import os
import sys
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from mambarium.errors import InputError
from mambarium.platform.data.images.image_files import find_images, in_either_form, readable


def save(file: Path, kind: str = "PNG") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(file, kind)
    return file


def test_all_that_pillow_reads_is_found(tmp_path: Path) -> None:
    kinds = {
        "jfif": "JPEG",
        "jp2": "JPEG2000",
        "webp": "WEBP",
        "avif": "AVIF",
        "JPG": "JPEG",
        "tga": "TGA",
        "pnm": "PPM",
    }
    files = [save(tmp_path / f"a.{suffix}", kind) for suffix, kind in kinds.items()]
    assert find_images(tmp_path) == sorted(files)


def test_what_is_passed_over_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [save(tmp_path / "a.png"), save(tmp_path / "b" / "c.png")]
    for name in (
        "labels.csv",
        "b/notes.txt",
        "b/more.TXT",
        "page.eps",
        "table.h5",
        "README",
        ".hidden.png",
        ".d/x.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    os.symlink(".", tmp_path / "b" / "again")
    os.symlink("..", tmp_path / "b" / "above")
    assert find_images(tmp_path) == files and capsys.readouterr().err == ""
    assert find_images(tmp_path, tell=True) == files
    told = capsys.readouterr().err
    assert told.startswith(f"note: {tmp_path}: passed over 6 files that are no images (.txt 2, ")
    assert all(part in told for part in (".csv 1", ".eps 1", ".h5 1", "without a suffix 1"))
    assert told.endswith(") and 2 links to folders that are read already\n")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").write_text("x")
    with pytest.raises(
        InputError, match=r"none: no images in this folder .*it has 1 files that are no images \(\.txt 1\)"
    ):
        find_images(tmp_path / "none")


def test_links_out_of_the_folder_are_followed_once(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "a.png")
    save(tmp_path / "set" / "b.png")
    for name in ("one", "two"):
        os.symlink(tmp_path / "elsewhere", tmp_path / "set" / name)
    os.symlink(tmp_path / "set", tmp_path / "elsewhere" / "back")
    assert find_images(tmp_path / "set") == [tmp_path / "set" / "b.png", tmp_path / "set" / "one" / "a.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_names_of_any_bytes(tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png"))
    save(file)
    assert find_images(tmp_path) == [file] and file.stat().st_size
    assert readable(file.name) == "bad\\xff.png"


@pytest.mark.skipif(sys.platform == "darwin", reason="names in one form alone")
def test_names_in_the_other_form_of_unicode(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "Bär.png") for form in ("NFC", "NFD"))
    assert composed != apart and readable(apart) == composed
    save(tmp_path / apart)
    assert in_either_form(tmp_path / composed) == tmp_path / apart == in_either_form(tmp_path / apart)
    save(tmp_path / composed)
    assert in_either_form(tmp_path / composed) == tmp_path / composed
    assert in_either_form(tmp_path / "none.png") == tmp_path / "none.png"
