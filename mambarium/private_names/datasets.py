"""What is used of Hugging Face's datasets beyond its public names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def content_key(rows: Dataset) -> str:
    """Return what identifies rows by the content of their files and what was selected of them."""
    return rows._fingerprint
