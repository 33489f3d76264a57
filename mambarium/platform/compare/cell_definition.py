"""What makes two cells the same experiment: the content of their files, not the files' names or comments."""

import hashlib
import json
from typing import Any

from mambarium.platform.runs.run_folder import UNCOMPARED_KEYS, flatten

Definition = dict[str, Any]

# On a command line, and so in overrides, `init_args` may be left out.
_UNCOMPARED_OPTIONS = (*UNCOMPARED_KEYS, *(key.replace(".init_args.", ".") for key in UNCOMPARED_KEYS))


def compared_values(definition: Definition) -> dict[str, Any]:
    """Return a definition's values by dotted key, without those that a run may change on its way and empty mappings.

    Args:
        definition: The definition; its keys `config` and `overrides` hold options of `fit`.
    """
    return {key: value for key, value in flatten(definition).items() if value != {} and not _is_uncompared(key)}


def digest(definition: Definition) -> str:
    """Return the hash by which definitions are compared (16 hexadecimal digits of SHA-256)."""
    text = json.dumps(compared_values(definition), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_uncompared(key: str) -> bool:
    part, _, option = key.partition(".")
    return part in ("config", "overrides") and option.startswith(_UNCOMPARED_OPTIONS)
