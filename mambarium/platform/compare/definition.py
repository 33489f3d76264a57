"""What makes two cells the same experiment: the content of their files, not the files' names or comments."""

import hashlib
import json
from typing import Any

Definition = dict[str, Any]


def digest(definition: Definition) -> str:
    """Return the hash by which definitions are compared (16 hexadecimal digits of SHA-256)."""
    text = json.dumps(definition, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
