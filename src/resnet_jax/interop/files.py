"""Files of named tensors: .safetensors, which needs no torch, and PyTorch's .pth, .pt, .th …, which do.

This file alone imports torch, and only when such a file is read or written. Pickles are read with `weights_only=True`:
no file runs code.
"""

import argparse
import io
import json
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from resnet_jax.errors import InputError
from resnet_jax.files import expanded, write_whole
from resnet_jax.interop.torch_names import below_prefix, silent

SUFFIXES = (".safetensors", ".pth", ".pt", ".th", ".bin", ".ckpt", ".pth.tar")

# Tables in tables, as deep as files have been seen to nest them, and some more.
_DEEPEST = 6

# What safetensors calls the types. Its own reader for NumPy does not know bfloat16.
_DTYPES = {"F16": np.float16, "BF16": jnp.bfloat16, "F32": np.float32, "F64": np.float64}
_DTYPES |= {"BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Begins the message of an InputError with the file that it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_weights(
    path: str | os.PathLike[str], prefix: str | None = None, log: Callable[[str], None] = silent
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of one network in a file, and what the file says beside them.

    A training checkpoint may hold them anywhere in its tables; names lose what stands before all of them, such as
    "state_dict.", "module." or "_orig_mod.". float16 and bfloat16 become float32, which is exact.

    Args:
      path: a file with one of `SUFFIXES`.
      prefix: of the network that is wanted where the file holds several, such as "model_ema".
      log: is given a line about each choice that was made, see `torch_names.below_prefix`.

    Returns:
      The tensors by their names, and the texts beside them: the metadata of a .safetensors file, or the entries of a
      training checkpoint such as "arch".

    Raises:
      InputError: the file is missing, of another kind, empty, cut short, holds code or no table of tensors; PyTorch,
        which all but .safetensors need, is not installed; or the file holds several networks, and `prefix` names none.
    """
    path = expanded(path)
    read = _read_safetensors if _suffix(path) == ".safetensors" else _read_torch
    if not path.is_file():
        raise InputError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: give a file of weights")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not data:
        raise InputError(f"{path} is empty: download or write it again")
    with naming(path):
        tensors, metadata = read(path, data)
        return below_prefix(tensors, prefix, log), metadata


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors by their names: the file is there as a whole or not at all, and an old one is replaced.

    Args:
      path: ends with one of `SUFFIXES`; all but .safetensors hold what `torch.save(state_dict)` writes.
      tensors: arrays of any shape, float or integer.
      metadata: texts beside them, which only .safetensors can hold.

    Raises:
      InputError: the name ends otherwise, the folder cannot be written to, or PyTorch, which all but .safetensors need,
        is not installed.
    """
    path = expanded(path)
    kept = {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
    if _suffix(path) == ".safetensors":
        # Programs that read such files into torch want to be told so.
        data = safetensors.numpy.save(kept, {"format": "pt", **(metadata or {})})
    else:
        torch, buffer = _torch(path), io.BytesIO()
        torch.save({name: torch.from_numpy(tensor) for name, tensor in kept.items()}, buffer)
        data = buffer.getvalue()
    write_whole(path, data)


def _suffix(path: Path) -> str:
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)
    if suffix is None:
        raise InputError(f"{path} is no file of weights by its name, which must end with {', '.join(SUFFIXES)}")
    return suffix


def _read_safetensors(path: Path, data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        table = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise InputError(f"cut short or no safetensors file ({error}): download or write it again") from error
    tensors = {}
    for name, tensor in table:
        if tensor["dtype"] not in _DTYPES:
            raise InputError(f"{name} has the type {tensor['dtype']}, which weights of a ResNet never have")
        array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        tensors[name] = array.astype(np.float32) if tensor["dtype"] in ("F16", "BF16") else array
    # The header's length, and the header: `deserialize` keeps the metadata to itself.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, header.get("__metadata__", {})


def _read_torch(path: Path, data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    torch = _torch(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore")  # such as of pickle protocols that it may not know
            table: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything, from EOFError to KeyError
        # torch names what it refuses to import as in "unsupported GLOBAL posix.system" or "GLOBAL a.B was not allowed".
        code = re.search(r"GLOBAL (\S+\w)", str(error))
        if "TorchScript" in str(error):
            raise InputError("a TorchScript program: save the network's state_dict() alone") from error
        if code or (isinstance(error, pickle.UnpicklingError) and data.startswith((b"\x80", b"PK"))):
            what = code[1] if code else "a pickle of another kind than torch.save writes"
            raise InputError(f"it holds code or objects ({what}): save the network's state_dict() alone") from error
        raise InputError("cut short or no file of PyTorch: download or write it again") from error
    flat = dict(_flat(table))
    tensors = {name: _array(torch, name, each) for name, each in flat.items() if isinstance(each, torch.Tensor)}
    if not tensors:
        raise InputError("no table of tensors by their names: save the network's state_dict()")
    return tensors, {name: value for name, value in flat.items() if isinstance(value, str)}


def _harmless() -> list[Any]:
    """What training scripts save beside weights and what runs no code: parsed arguments, numbers of NumPy."""
    scalar: Any = np._core.multiarray.scalar  # pyright: ignore[reportAttributeAccessIssue]
    dtypes = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    return [argparse.Namespace, np.dtype, *dtypes, scalar, (scalar, "numpy.core.multiarray.scalar")]


def _flat(table: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The entries of tables in tables, their names joined by dots."""
    if isinstance(table, Mapping) and depth < _DEEPEST:
        for name, value in table.items():
            if isinstance(name, str):
                yield from _flat(value, f"{prefix}.{name}" if prefix else name, depth + 1)
    elif prefix:
        yield prefix, table


def _array(torch: ModuleType, name: str, tensor: Any) -> np.ndarray:
    half = tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64)
    try:
        return (tensor.float() if half else tensor).detach().numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:  # sparse, quantised, or on no device
        raise InputError(
            f"{name} is no plain array ({tensor.layout}, {tensor.dtype}, {tensor.device}): save it as float32"
        ) from error


def _torch(path: Path) -> ModuleType:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"{path.suffix} files need PyTorch: pip install torch, or use a .safetensors file, which needs none"
        ) from error
    return torch
