"""Files of named tensors: .safetensors, which needs no torch, and PyTorch's .pth, .pt, .th …, which do.

This file alone imports torch, and only when such a file is read or written. Pickles are read with `weights_only=True`:
no file runs code.
"""

import argparse
import io
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from resnet_jax.errors import InputError
from resnet_jax.files import expanded, local_copy, write_whole
from resnet_jax.interop.torch_weights import below_prefix

SUFFIXES = (".safetensors", ".pth", ".pt", ".th", ".bin", ".ckpt", ".pth.tar")

# Tables in tables, as deep as files have been seen to nest them, and some more.
_DEEPEST = 6
# As safetensors calls them.
_DTYPES = ("F16", "BF16", "F32", "F64", "BOOL", "U8", "I8", "I16", "I32", "I64")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Begins the message of an InputError with the file that it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_weights(
    path: str | os.PathLike[str], prefix: str | None = None, log: Callable[[str], None] = lambda line: None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of one network in a file, and the texts beside them: metadata, or a checkpoint's entries as "arch".

    A training checkpoint may hold the tensors anywhere in its tables. float16 and bfloat16 become float32, which is
    exact. For the names, `prefix` and `log` see `torch_weights.below_prefix`.

    Raises:
      InputError: the file is missing, of another kind, empty, cut short, holds code or no table of tensors; PyTorch,
        which all but .safetensors need, is not installed; or the file holds several networks, and `prefix` names none.
    """
    path = expanded(path, remote=True)
    read = _read_safetensors if _suffix(path) == ".safetensors" else _read_torch
    if not path.is_file():
        raise InputError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: give a file of weights")
    with local_copy(path) as copy:
        try:
            with copy.open("rb") as file:
                empty = not file.read(1)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        if empty:
            raise InputError(f"{path} is empty: download or write it again")
        with naming(path):
            tensors, metadata = read(copy)
            return below_prefix(tensors, prefix, log), metadata


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors by their names, to .safetensors with the metadata or else as `torch.save(state_dict)` does.

    The file is there as a whole or not at all, and an old one is replaced.

    Raises:
      InputError: the name ends otherwise, the folder cannot be written to, or PyTorch, which all but .safetensors need,
        is not installed.
    """
    path = expanded(path, remote=True)
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


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    tensors = {}
    try:
        with safetensors.safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118 (it is no table)
                # NumPy lacks some of the others, such as float8, and cannot read them at all.
                dtype = file.get_slice(name).get_dtype()
                if dtype not in _DTYPES:
                    raise InputError(f"{name} has the type {dtype}, which weights of a ResNet never have")
                array = file.get_tensor(name)
                tensors[name] = array.astype(np.float32) if dtype in ("F16", "BF16") else array
            return tensors, file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise InputError(f"cut short or no safetensors file ({error}): download or write it again") from error


def _read_torch(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    torch, data = _torch(path), path.read_bytes()
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
