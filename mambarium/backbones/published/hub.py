"""Checkpoints on the Hugging Face hub, by name, and elsewhere, by URL."""

import re
import sys
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import torch

from mambarium.backbones.published.configuration import CONFIG_FILE
from mambarium.errors import InputError

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What transformers and timm call a model's weights, in the order in which to look."""

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_NAME = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<file>[\w./-]+))?")


def is_hub_name(source: str) -> bool:
    """Whether a source can be a name on the hub, `owner/name` or `owner/name:file`, rather than a path."""
    found = _NAME.fullmatch(source)
    return found is not None and not found["repository"].endswith((*WEIGHT_SUFFIXES, ".json"))


def is_url(source: str) -> bool:
    """Whether a source is a URL rather than a path or a name on the hub."""
    return source.startswith(("https://", "http://"))


def fetch_url(url: str) -> Path:
    """Return the file of a URL, downloaded to torch's cache unless it is there."""
    path = Path(torch.hub.get_dir(), "checkpoints", *unquote(url).split("?")[0].split("/")[2:])
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())
    except OSError as error:  # the network's errors are of this kind
        raise InputError(
            f"{url} can't be downloaded ({_cause(error)}); give a local file, null for fresh weights, or try again "
            "with a network"
        ) from error
    return path


def fetch(source: str) -> Path:
    """Return the weights, or the index of their parts, of a name on the hub, from its cache or downloaded."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    found = _NAME.fullmatch(source)
    assert found is not None
    repository, file = found["repository"], found["file"]
    try:
        for name in [file] if file else WEIGHT_FILES:
            try:
                return Path(huggingface_hub.hf_hub_download(repository, name))
            except RemoteEntryNotFoundError:
                continue
        names = huggingface_hub.list_repo_files(repository)
        weights = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
        if file is None and len(weights) == 1:
            return Path(huggingface_hub.hf_hub_download(repository, weights[0]))
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{source}: no such file or folder here, and the Hugging Face hub can't be reached; give a local file, "
            "null for fresh weights, or try again with a network"
        ) from error
    # The hub's client and the network's layers below it raise errors of many kinds, with a sentence in the first line.
    except Exception as error:
        raise InputError(f"{source}: no such file or folder here, nor on the hub ({_cause(error)})") from error
    there = f"it has {', '.join(weights)}" if weights else "it has no weights"
    raise InputError(
        f"{source}: the repository has no {file}; {there}"
        if file
        else f"{source}: which file of the repository? give {repository}:FILE; {there}"
    )


def fetch_beside(source: str, name: str) -> Path:
    """Another file of the same repository, a part of the weights."""
    import huggingface_hub

    return Path(huggingface_hub.hf_hub_download(source.split(":")[0], name))


def fetch_config(source: str) -> tuple[Path | None, str]:
    """Return the configuration beside weights that were fetched by name, or None and why there is none."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    repository, _, file = source.partition(":")
    name = str(PurePosixPath(file).with_name(CONFIG_FILE)) if file else CONFIG_FILE
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name)), ""
    except LocalEntryNotFoundError:
        return None, f"{name} is not in the hub's cache, and the hub can't be reached"
    except RemoteEntryNotFoundError:
        return None, f"the repository has no {name}"
    except Exception as error:
        raise InputError(f"{repository}: its {name} can't be had ({_cause(error)})") from error


def _cause(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]
