"""Reading checkpoints of `torch.save` without running anything in them."""

import argparse
import collections
import pathlib
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mambarium.errors import InputError
from mambarium.private_names.torch import NUMPY_REBUILDERS


def read_pickle(path: Path) -> Any:
    """Return the content of a file of `torch.save`, tensors on the CPU.

    Read with `weights_only=True`: tensors, numbers, strings and their containers. Beside them, only what official files
    hold is let through, and nothing of it can run code: argparse's namespaces, numpy's scalars and arrays, paths, and
    configurations of yacs and histories of mmengine, which come back as dicts.

    Raises:
        InputError: If the file is damaged, no checkpoint, or holds anything else.
    """
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            # Torch warns of pickles of other protocols, which either load or end in an error.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except PermissionError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from error
    # The unpickler raises errors of many kinds on bytes that are no pickle.
    except Exception as error:
        if "TorchScript" in str(error):
            raise InputError(f"{path} is a TorchScript archive; save the model's state dict instead") from error
        if foreign := re.search(r"GLOBAL (\S+)", str(error)):
            if foreign.group(1).startswith("torch.distributed"):
                raise InputError(
                    f"{path} holds one process's part of weights that were sharded ({foreign.group(1)}); save the full "
                    "state dict instead"
                ) from error
            raise InputError(
                f"{path} holds Python objects that could run code ({foreign.group(1)}), which are never loaded; save "
                "its state dict alone where it was written"
            ) from error
        raise InputError(f"{path} is damaged or no checkpoint ({_cause(error)})") from error


def _harmless() -> list[Any]:
    """Types and functions to let through, some under the names that other versions of their packages gave them."""
    reconstruct, scalar = NUMPY_REBUILDERS
    kinds = (np.bool_, np.uint8, np.int32, np.int64, np.float16, np.float32, np.float64)
    return [
        argparse.Namespace,
        collections.defaultdict,
        (list, "builtins.list"),
        (dict, "builtins.dict"),
        (int, "builtins.int"),
        (float, "builtins.float"),
        np.ndarray,
        np.dtype,
        *(type(np.dtype(kind)) for kind in kinds),
        *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        *((reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
        *((pathlib.PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
        *((pathlib.PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
        (collections.OrderedDict, "yacs.config.CfgNode"),
        (collections.OrderedDict, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_name_of_attribute, "builtins.getattr"),
    ]


def _name_of_attribute(owner: object, name: str) -> str:
    """Return what comes back for a function within a class, of which files hold the name: nothing is looked up."""
    return name


def _cause(error: Exception) -> str:
    """Return the first line that says something, short."""
    lines = [line for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
    return lines[0].strip()[:120] if lines and not isinstance(error, pickle.UnpicklingError | KeyError) else "no pickle"
