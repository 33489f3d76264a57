"""The content of a checkpoint, wherever it lies and however it is stored."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from mambarium.backbones.published import hub
from mambarium.backbones.published.configuration import CONFIG_FILE, StoredConfiguration, read_config_file
from mambarium.backbones.published.pickles import read_pickle
from mambarium.errors import InputError


class StoredCheckpoint(NamedTuple):
    """A checkpoint as it was found.

    Attributes:
        source: Path or name.
        sha256: Of the file's bytes, or of all its parts one behind the other.
        content: What the file holds: a state dict, or a dict with one in it.
        config: The `config.json` beside the weights, if there is one.
        no_config: Why there is none.
    """

    source: str
    sha256: str
    content: dict[str, Any]
    config: StoredConfiguration | None
    no_config: str


def read_checkpoint(source: str | Path) -> StoredCheckpoint:
    """Read a checkpoint; InputError if there is none, or it can't be read.

    A source is a file of `torch.save` or safetensors, a folder as transformers writes it (one file, or an index with
    its parts), a URL, or a name on the Hugging Face hub: `owner/name` or `owner/name:file`.
    """
    files = _files(str(source))
    content: dict[str, Any] = {}
    for file in files:
        part = _read_safetensors(file) if file.suffix == ".safetensors" else read_pickle(file)
        if not isinstance(part, dict):
            raise InputError(f"{file} is no checkpoint: it holds a {type(part).__name__}, expected named tensors")
        content |= part
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as reader:
            while block := reader.read(1 << 20):
                digest.update(block)
    config, no_config = _config(str(source))
    return StoredCheckpoint(str(source), digest.hexdigest(), content, config, no_config)


def _config(source: str) -> tuple[StoredConfiguration | None, str]:
    """Return the configuration beside the weights, or why there is none."""
    path = Path(source).expanduser()
    if path.exists():
        path = (path if path.is_dir() else path.parent) / CONFIG_FILE
        return (
            (read_config_file(path, str(path)), "")
            if path.is_file()
            else (None, f"no {CONFIG_FILE} beside the weights")
        )
    if hub.is_url(source):
        return None, "weights of a URL come alone"
    fetched, why = hub.fetch_config(source)
    title = f"{CONFIG_FILE} of {source.partition(':')[0]}"
    return (None, why) if fetched is None else (read_config_file(fetched, title), "")


def _files(source: str) -> list[Path]:
    """Return the files that hold the weights, in order."""
    path = hub.fetch_url(source) if hub.is_url(source) else Path(source).expanduser()
    if path.is_dir():
        names = [name for name in hub.WEIGHT_FILES if (path / name).is_file()]
        if not names:
            if any(path.glob("*.distcp")):
                raise InputError(
                    f"{source}: parts that torch.distributed.checkpoint wrote for many processes: bring them into one "
                    "file with python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
                )
            if (path / "zero_to_fp32.py").is_file():
                raise InputError(
                    f"{source}: parts that DeepSpeed wrote for many processes: bring them into one file with its "
                    "zero_to_fp32.py"
                )
            raise InputError(f"{source}: a folder with none of {', '.join(hub.WEIGHT_FILES)}; give a file")
        path = path / names[0]
    elif not path.is_file():
        if not hub.is_hub_name(source):
            raise InputError(f"{source}: no such checkpoint")
        path = hub.fetch(source)
    if path.suffix != ".json":
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is no index of a checkpoint's parts") from error
    parts = [path.parent / name for name in names]
    if not Path(source).expanduser().exists():
        parts = [hub.fetch_beside(source, name) for name in names]
    for part in parts:
        if not part.is_file():
            raise InputError(f"{path} names {part.name}, which is not there")
    return parts


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or no safetensors file ({str(error)[:120]})") from error
