"""Files of named tensors: .safetensors, which needs no torch, and PyTorch's .pth, .pt and .th, which do.

This file alone imports torch, and only when such a file is read or written. Pickles are read with `weights_only=True`,
so that no file runs code.
"""

import io
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from resnet_jax.errors import InputError
from resnet_jax.files import expanded, write_whole

SUFFIXES = (".safetensors", ".pth", ".pt", ".th")

# What safetensors calls the types. Its own reader for NumPy does not know bfloat16.
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a file by their names.

    A training checkpoint is reduced to its "state_dict", names lose the "module." that `torch.nn.DataParallel` puts
    before every one, and float16 and bfloat16 become float32, which is exact.

    Args:
      path: a .safetensors, .pth, .pt or .th file.

    Raises:
      InputError: the file is missing, of another kind, empty, cut short, holds code or no table of tensors; or PyTorch,
        which all but .safetensors need, is not installed.
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
    tensors = read(path, data)
    wrapped = bool(tensors) and all(name.startswith("module.") for name in tensors)
    return {name.removeprefix("module.") if wrapped else name: tensor for name, tensor in tensors.items()}


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors by their names: the file is there as a whole or not at all, and an old one is replaced.

    Args:
      path: ends with .safetensors, or with .pth, .pt or .th, which write what `torch.save(state_dict)` does.
      tensors: arrays of any shape, float or integer.

    Raises:
      InputError: the name ends otherwise, the folder cannot be written to, or PyTorch, which all but .safetensors need,
        is not installed.
    """
    path = expanded(path)
    encode = _safetensors_bytes if _suffix(path) == ".safetensors" else _torch_bytes
    data = encode(path, {name: np.array(tensor, order="C") for name, tensor in tensors.items()})
    write_whole(path, data)


def _suffix(path: Path) -> str:
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} is no file of weights by its name, which must end with {', '.join(SUFFIXES)}")
    return path.suffix


def _read_safetensors(path: Path, data: bytes) -> dict[str, np.ndarray]:
    try:
        table = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is cut short or no safetensors file ({error}): download or write it again") from error
    tensors = {}
    for name, tensor in table:
        if tensor["dtype"] not in _DTYPES:
            raise InputError(f"{path}: {name} has the type {tensor['dtype']}, which weights of a ResNet never have")
        array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        tensors[name] = array.astype(np.float32) if tensor["dtype"] in ("F16", "BF16") else array
    return tensors


def _read_torch(path: Path, data: bytes) -> dict[str, np.ndarray]:
    torch = _torch(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of pickle protocols that it may not know
            table: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything, from EOFError to KeyError
        # torch names what it refuses to import as in "unsupported GLOBAL posix.system" or "GLOBAL a.B was not allowed".
        code = re.search(r"GLOBAL (\S+\w)", str(error))
        if code or (isinstance(error, pickle.UnpicklingError) and data.startswith((b"\x80", b"PK"))):
            what = code[1] if code else "a pickle of another kind than torch.save writes"
            raise InputError(
                f"{path} holds code or objects ({what}) and is therefore refused: "
                "save the network's state_dict() alone, or a .safetensors file"
            ) from error
        raise InputError(f"{path} is cut short or no file of PyTorch: download or write it again") from error
    if isinstance(table, dict) and isinstance(table.get("state_dict"), dict):
        table = table["state_dict"]
    if not isinstance(table, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in table.items()
    ):
        raise InputError(f"{path} holds no table of tensors by their names: save the network's state_dict()")
    return {name: _array(torch, tensor) for name, tensor in table.items()}


def _array(torch: ModuleType, tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).numpy()


def _safetensors_bytes(path: Path, tensors: Mapping[str, np.ndarray]) -> bytes:
    return safetensors.numpy.save(dict(tensors))


def _torch_bytes(path: Path, tensors: Mapping[str, np.ndarray]) -> bytes:
    torch, buffer = _torch(path), io.BytesIO()
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, buffer)
    return buffer.getvalue()


def _torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path.suffix} files need PyTorch, which is not installed: pip install torch, "
            "or use a .safetensors file, which needs none"
        ) from error
    return torch
