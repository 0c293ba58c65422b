"""Convolutions through oneDNN on one CPU device, where the extra `onednn` has brought it.

It is the library that PyTorch has for them. XLA's own wheel cannot call it (its oneDNN flags change nothing), so it is
called from here, by XLA's foreign-function interface: XLA calls `_handle` with pointers to arrays, and that calls
oneDNN, which takes them as they lie in memory. Measured on 2 cores (Intel Xeon, jax 0.10.2), the convolutions of
ResNet-20's training step take 112 ms instead of 239, and PyTorch's 109.

Several devices, other types than float32, a `vmap` over kernels or over gradients of kernels, and exported programs are
computed as without it, and so is all with RESNET_JAX_ONEDNN=0 in the environment.
"""

import ctypes
import importlib.metadata
import os
import threading
from ctypes import POINTER, Structure, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np

_PACKAGE = "onednn-cpu-gomp"
_TARGET = "resnet_jax_onednn_conv"

# Of oneDNN's C interface, version 3 (dnnl_types.h).
_F32, _ANY, _CPU, _IN_ORDER, _TRAINING, _DIRECT, _USER, _ALLOCATE = 3, 1, 1, 1, 64, 1, 1, c_void_p(-1)
_WEIGHTS, _DIFF_WEIGHTS, _SCRATCHPAD_OF = 131, 132, 136
_FROM, _TO, _SCRATCHPAD = 1, 17, 80
# What is wanted: the names by which a primitive knows images, kernel and output.
_ARGUMENTS = {"y": (1, 33, 17), "x": (129, 33, 145), "kernel": (1, 161, 145)}
_WANTED = ("y", "x", "kernel")


class _Argument(Structure):
    _fields_ = [("name", c_int), ("memory", c_void_p)]


class OneDNNError(RuntimeError):
    """oneDNN refused a call."""


def version() -> str | None:
    """That of the package whose oneDNN is used, or None: it is not installed, does not fit, or was switched off."""
    return importlib.metadata.version(_PACKAGE) if _library() else None


@cache
def _library() -> Any:
    """oneDNN, or None where it is not installed, does not load, or jaxlib is one that it was not tried with."""
    version = tuple(map(int, jaxlib.version.__version__.split(".")[:2]))
    if os.environ.get("RESNET_JAX_ONEDNN") == "0" or not (0, 10) <= version < (0, 13):
        return None
    # Its threads sleep between two calls: where they wait busily they take the cores from XLA's. libgomp reads it once.
    given = os.environ.get("GOMP_SPINCOUNT")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    try:
        files = importlib.metadata.files(_PACKAGE) or []
        path = next(file.locate() for file in files if file.name == "libdnnl.so.3")
        library, quick = ctypes.CDLL(str(path)), ctypes.PyDLL(str(path))
        library.dnnl_primitive_desc_query_md.argtypes = (c_void_p, c_int, c_int)
        library.dnnl_primitive_desc_query_md.restype = c_void_p
        library.dnnl_memory_desc_equal.argtypes = (c_void_p, c_void_p)
        # Without letting go of Python's lock, for which it would have to wait.
        quick.dnnl_memory_set_data_handle.argtypes = (c_void_p, c_void_p)
        vars(library)["dnnl_memory_set_data_handle"] = quick.dnnl_memory_set_data_handle
    except (importlib.metadata.PackageNotFoundError, StopIteration, OSError, AttributeError):
        return None
    finally:
        if given is None:
            del os.environ["GOMP_SPINCOUNT"]
    jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(_HANDLER), platform="cpu")
    return library


def _created(function: str, *arguments: Any) -> c_void_p:
    """What a function of oneDNN hands out."""
    made = c_void_p()
    if status := getattr(_library(), function)(ctypes.byref(made), *arguments):
        raise OneDNNError(f"{function}: status {status}")
    return made


@cache
def _engine() -> tuple[c_void_p, c_void_p, c_void_p]:
    """An engine, a stream, and attributes: oneDNN is given memory to work in. Its own is of the thread that makes a
    primitive, and XLA runs it in others.
    """
    engine, attributes = _created("dnnl_engine_create", _CPU, c_size_t(0)), _created("dnnl_primitive_attr_create")
    if status := _library().dnnl_primitive_attr_set_scratchpad_mode(attributes, _USER):
        raise OneDNNError(f"dnnl_primitive_attr_set_scratchpad_mode: status {status}")
    return engine, _created("dnnl_stream_create", engine, _IN_ORDER), attributes


def _described(shape: tuple[int, ...], order: tuple[int, ...] | None) -> c_void_p:
    """An array: its shape in memory and where oneDNN's axes are in that, or None for an order that it chooses."""
    strides = [int(np.prod(shape[axis + 1 :])) for axis in range(4)]
    if order is None:
        return _created("dnnl_memory_desc_create_with_tag", 4, _integers(*shape), _F32, _ANY)
    dimensions = _integers(*(shape[axis] for axis in order))
    return _created(
        "dnnl_memory_desc_create_with_strides", 4, dimensions, _F32, _integers(*(strides[axis] for axis in order))
    )


def _integers(*values: int) -> Any:
    return (c_int64 * len(values))(*values)


class _Convolution:
    """One that is ready to run: of what is wanted, shapes of x, kernel and y, and the window."""

    def __init__(self, wanted: str, shapes: tuple[tuple[int, ...], ...], window: tuple[int, int, int]):
        (x, kernel, y), (stride, top, left) = shapes, window
        self._library = _library()
        height, width, channels, features = kernel
        images, output = (_described(shape, (0, 3, 1, 2)) for shape in (x, y))
        ours, theirs = _described(kernel, (3, 2, 0, 1)), _described((features, channels, height, width), None)
        bottom = (y[1] - 1) * stride + height - x[1] - top
        right = (y[2] - 1) * stride + width - x[2] - left
        geometry = _integers(stride, stride), _integers(0, 0), _integers(top, left), _integers(bottom, right)
        (engine, _, attributes), arrays = _engine(), (images, theirs, None, output)
        described = _created(
            "dnnl_convolution_forward_primitive_desc_create",
            *(engine, _TRAINING, _DIRECT, *arrays, *geometry, attributes),
        )
        if wanted != "y":
            name, arrays = ("weights", arrays) if wanted == "kernel" else ("data", (images, theirs, output))
            create = f"dnnl_convolution_backward_{name}_primitive_desc_create"
            described = _created(create, engine, _DIRECT, *arrays, *geometry, described, attributes)
        query = _DIFF_WEIGHTS if wanted == "kernel" else _WEIGHTS
        chosen = c_void_p(self._library.dnnl_primitive_desc_query_md(described, query, 0))
        self._arrays = [_created("dnnl_memory_create", each, engine, None) for each in (images, ours, output)]
        x_memory, weights, y_memory = self._arrays
        self._calls = []
        if not self._library.dnnl_memory_desc_equal(chosen, ours):
            weights = _created("dnnl_memory_create", chosen, engine, _ALLOCATE)
            ways = [(ours, self._arrays[1]), (chosen, weights)]
            (source, given), (goal, made) = ways[::-1] if wanted == "kernel" else ways
            reorder = _created("dnnl_reorder_primitive_desc_create", source, engine, goal, engine, attributes)
            self._calls.append(self._call(reorder, {_FROM: given, _TO: made}))
        memories = dict(zip(_ARGUMENTS[wanted], (x_memory, weights, y_memory), strict=True))
        self._calls.insert(0 if wanted == "kernel" else len(self._calls), self._call(described, memories))

    def _call(self, described: c_void_p, memories: dict[int, c_void_p]) -> tuple[c_void_p, int, Any]:
        """A primitive, and what it is executed with."""
        needed = c_void_p(self._library.dnnl_primitive_desc_query_md(described, _SCRATCHPAD_OF, 0))
        memories[_SCRATCHPAD] = _created("dnnl_memory_create", needed, _engine()[0], _ALLOCATE)
        arguments = (_Argument * len(memories))(*(_Argument(*each) for each in memories.items()))
        return _created("dnnl_primitive_create", described), len(memories), arguments

    def __call__(self, *pointers: int) -> None:
        """Computes it, with x, kernel and y at these addresses."""
        library, stream = self._library, _engine()[1]
        for memory, pointer in zip(self._arrays, pointers, strict=True):
            library.dnnl_memory_set_data_handle(memory, pointer)
        for primitive, count, arguments in self._calls:
            if status := library.dnnl_primitive_execute(primitive, stream, count, arguments):
                raise OneDNNError(f"dnnl_primitive_execute: status {status}")


_convolutions: dict[tuple[Any, ...], _Convolution] = {}
# One runs at a time, on all cores, and it has its addresses in itself.
_lock = threading.Lock()


def _made(wanted: str, shapes: tuple[tuple[int, ...], ...], window: tuple[int, int, int]) -> _Convolution:
    key = wanted, shapes, window
    if key not in _convolutions:
        _convolutions[key] = _Convolution(*key)
    return _convolutions[key]


def lower(context: Any, *known: Any, wanted: str, shape: Any, stride: int, padding: Any, copies: int) -> Any:
    """A program's call of oneDNN for `conv`'s primitive, or None where XLA is to compute it.

    Args:
      context: of JAX's lowering.
      known, wanted, shape, stride, padding, copies: of `conv`'s primitive.
    """
    module, out = context.module_context, context.avals_out[0]
    # Of a `jit`, or of one under whose `shard_map` this is.
    axes = module.axis_context
    one_device = (axes.mesh.size if hasattr(axes, "mesh") else getattr(axes, "num_devices", 0)) == 1
    exported = module.lowering_parameters.for_export
    if copies or exported or not one_device or out.dtype != jnp.float32 or not _library():
        return None
    shapes = {"y": (0, 1), "x": (1, 2), "kernel": (0, 2)}[wanted]
    of_all = dict(zip(shapes, (each.shape for each in context.avals_in), strict=True))
    of_all[3 - sum(shapes)] = out.shape
    window = (stride, padding[0][0], padding[1][0])
    if not all(isinstance(size, int) and size for each in of_all.values() for size in each):
        return None
    try:
        with _lock:
            _made(wanted, (of_all[0], of_all[1], of_all[2]), window)
    except OneDNNError:
        return None
    attribute = np.array((_WANTED.index(wanted), *window), np.int64)
    return jax.ffi.ffi_lowering(_TARGET)(context, *known, window=attribute)


# XLA's foreign-function interface (xla/ffi/api/c_api.h), whose structures only grow at their ends.
_HEAD = [("struct_size", c_size_t), ("extension", c_void_p)]


class _Buffer(Structure):
    _fields_ = [*_HEAD, ("dtype", c_int), ("data", c_void_p), ("rank", c_int64), ("shape", POINTER(c_int64))]


class _Buffers(Structure):
    _fields_ = [*_HEAD, ("size", c_int64), ("types", c_void_p), ("values", POINTER(POINTER(_Buffer)))]


class _Integers(Structure):
    _fields_ = [("dtype", c_int), ("size", c_size_t), ("values", POINTER(c_int64))]


class _Attributes(Structure):
    _fields_ = [
        *_HEAD,
        ("size", c_int64),
        ("types", c_void_p),
        ("names", c_void_p),
        ("values", POINTER(POINTER(_Integers))),
    ]


class _Version(Structure):
    _fields_ = [*_HEAD, ("major", c_int), ("minor", c_int)]


class _Metadata(Structure):
    _fields_ = [("struct_size", c_size_t), ("version", _Version), ("traits", ctypes.c_uint32)]


class _MetadataExtension(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("type", c_int),
        ("next", c_void_p),
        ("metadata", POINTER(_Metadata)),
    ]


class _NewError(Structure):
    _fields_ = [*_HEAD, ("message", ctypes.c_char_p), ("code", c_int)]


class _Interface(Structure):
    _fields_ = [*_HEAD, ("version", _Version), ("internal", c_void_p), ("new_error", c_void_p)]


class _Frame(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("extension", POINTER(_MetadataExtension)),
        ("interface", POINTER(_Interface)),
        ("context", c_void_p),
        ("stage", c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    ]


def _handle(address: int) -> int | None:
    """Answers a call of XLA: None, or the address of an error."""
    frame = ctypes.cast(address, POINTER(_Frame)).contents
    try:
        if frame.extension and frame.extension.contents.type == 1:
            # XLA asks which version of the interface this is written for.
            version = frame.extension.contents.metadata.contents.version
            version.major, version.minor = 0, 3
            return None
        window = frame.attributes.values[0].contents
        number, stride, top, left = window.values[: window.size]
        wanted = _WANTED[number]
        known = [frame.arguments.values[i].contents for i in range(2)]
        buffers = [*known, frame.results.values[0].contents]
        order = {"y": (0, 1, 2), "x": (2, 0, 1), "kernel": (0, 2, 1)}[wanted]
        x, kernel, y = (buffers[i] for i in order)
        shapes = tuple(tuple(each.shape[:4]) for each in (x, kernel, y))
        with _lock:
            _made(wanted, shapes, (stride, top, left))(x.data, kernel.data, y.data)
    except BaseException as error:  # nothing may leave a function that C calls, an interrupt neither
        interface = frame.interface.contents
        given = _NewError(ctypes.sizeof(_NewError), None, repr(error).encode(), 13)
        return ctypes.CFUNCTYPE(c_void_p, c_void_p)(interface.new_error)(ctypes.addressof(given))
    return None


# XLA keeps its address, so that it must live as long as the process.
_HANDLER = ctypes.CFUNCTYPE(c_void_p, c_void_p)(_handle)
