"""Files of tensors: what is written is read back, and each bad file gives one clear line."""

import os
import pickle
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import torch_networks
from resnet_jax.errors import InputError
from resnet_jax.interop.files import SUFFIXES, read_weights, write_tensors

torch = torch_networks.torch

TORCH_SUFFIXES = [suffix for suffix in SUFFIXES if suffix != ".safetensors"]
EACH = [".safetensors", *(pytest.param(suffix, marks=pytest.mark.torch) for suffix in TORCH_SUFFIXES)]


def some_tensors():
    rng = np.random.default_rng(0)
    return {
        "conv1.weight": rng.normal(size=(8, 3, 7, 7)).astype(np.float32),
        "fc.weight": rng.normal(size=(6, 4)).astype(np.float32).T,
        "bn1.num_batches_tracked": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
    }


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", EACH)
def test_what_is_written_is_read_back(suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_text("what was there before")
    tensors = some_tensors()
    for tensor in tensors.values():
        tensor.flags.writeable = False  # as those that leave a device
    write_tensors(path, tensors)
    back = read_weights(str(path))[0]
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape)
        assert back[name].tobytes() == tensor.tobytes()
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.torch
def test_others_read_what_is_written(tmp_path):
    write_tensors(tmp_path / "a.safetensors", some_tensors())
    write_tensors(tmp_path / "a.pth", some_tensors())
    for back in (
        safetensors.numpy.load_file(tmp_path / "a.safetensors"),
        torch.load(tmp_path / "a.pth", weights_only=True),
    ):
        for name, tensor in some_tensors().items():
            np.testing.assert_array_equal(np.asarray(back[name]), tensor)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_becomes_float32(dtype, tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32).astype(jnp.dtype(dtype))
    write_tensors(tmp_path / "a.safetensors", {"w": values})
    torch.save({"w": torch.from_numpy(values.astype(np.float32)).to(getattr(torch, dtype))}, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        back = read_weights(tmp_path / name)[0]["w"]
        assert back.dtype == np.float32
        np.testing.assert_array_equal(back, values.astype(np.float32))


@pytest.mark.torch
def test_tables_in_tables_and_of_older_torch(tmp_path):
    state = {"module.fc.weight": torch.nn.Parameter(torch.ones(2, 3)), "module.module.bias": torch.zeros(2)}
    torch.save({"state_dict": state, "best_prec1": 91.7, "epoch": 3}, tmp_path / "a.th")
    torch.save(state, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path / "a.th")[0].keys() == {f"state_dict.{name}" for name in state}
    assert read_weights(tmp_path / "b.pt")[0].keys() == state.keys()


@pytest.mark.parametrize("suffix", EACH)
def test_missing_and_empty_files_and_folders(suffix, tmp_path):
    with pytest.raises(InputError, match=rf"missing\{suffix} does not exist"):
        read_weights(tmp_path / f"missing{suffix}")[0]
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_weights(tmp_path / f"folder{suffix}")[0]
    (tmp_path / f"empty{suffix}").touch()
    with pytest.raises(InputError, match="is empty"):
        read_weights(tmp_path / f"empty{suffix}")[0]


@pytest.mark.parametrize("name", ["weights.h5", "weights", "weights.PTH"])
def test_unknown_suffix(name, tmp_path):
    (tmp_path / name).touch()
    for use in (lambda: read_weights(tmp_path / name)[0], lambda: write_tensors(tmp_path / name, some_tensors())):
        with pytest.raises(InputError, match=r"must end with \.safetensors, \.pth, \.pt, \.th") as error:
            use()
        one_line(error)


@pytest.mark.parametrize("suffix", TORCH_SUFFIXES)
def test_without_torch_it_says_what_to_install(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"what torch.save would write")
    monkeypatch.setitem(sys.modules, "torch", None)
    for use in (lambda: read_weights(path)[0], lambda: write_tensors(path, some_tensors())):
        with pytest.raises(InputError, match="pip install torch") as error:
            use()
        one_line(error)
    write_tensors(tmp_path / "a.safetensors", some_tensors())
    assert read_weights(tmp_path / "a.safetensors")[0].keys() == some_tensors().keys()


class Evil:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def save_zipped(objects, path):
    torch.save(objects, path)


def save_old(objects, path):
    torch.save(objects, path, _use_new_zipfile_serialization=False)


def save_pickled(objects, path):
    path.write_bytes(pickle.dumps(objects, protocol=4))


@pytest.mark.torch
@pytest.mark.parametrize("save", [save_zipped, save_old, save_pickled])
def test_a_pickle_that_holds_code_is_refused_and_does_not_run(save, tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    save({"state_dict": {"fc.weight": Evil(trace)}}, path)
    with pytest.raises(InputError, match=r"holds code or objects \((posix\.mkdir|a pickle of another kind)") as error:
        read_weights(path)[0]
    one_line(error)
    assert not trace.exists()


@pytest.mark.torch
def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"\(torch\.nn\.modules\.linear\.Linear\).*state_dict\(\)") as error:
        read_weights(tmp_path / "a.pth")[0]
    one_line(error)


@pytest.mark.torch
def test_no_table_of_tensors(tmp_path):
    for table in ([torch.ones(2)], {"a": 1.0}, {3: torch.ones(2)}, torch.ones(2)):
        torch.save(table, tmp_path / "a.pth")
        with pytest.raises(InputError, match="no table of tensors"):
            read_weights(tmp_path / "a.pth")[0]


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(
    "kind", [".safetensors", *(pytest.param(kind, marks=pytest.mark.torch) for kind in (".pth", "old.pth"))]
)
def test_a_file_cut_short(kind, share, tmp_path):
    path = tmp_path / f"weights{kind}"
    write_tensors(path, some_tensors())
    if kind == "old.pth":
        save_old({name: torch.from_numpy(tensor.copy()) for name, tensor in some_tensors().items()}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data)) + 1])
    with pytest.raises(InputError, match="cut short") as error:
        read_weights(path)[0]
    one_line(error)


@pytest.mark.parametrize("suffix", EACH)
@pytest.mark.parametrize("content", [b"<html>404 Not Found</html>", b"hello world" * 50])
def test_a_file_of_something_else(content, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cut short or no") as error:
        read_weights(path)[0]
    one_line(error)


def test_a_safetensors_type_that_weights_never_have(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"w": np.zeros(2, np.complex64)})
    with pytest.raises(InputError, match="w has the type C64"):
        read_weights(tmp_path / "a.safetensors")[0]
    # One that NumPy does not have, and that safetensors cannot give it.
    header = b'{"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}'
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    with pytest.raises(InputError, match="w has the type F8_E4M3") as error:
        read_weights(tmp_path / "a.safetensors")
    one_line(error)


@pytest.mark.parametrize("suffix", EACH)
def test_a_folder_that_cannot_be_written_to(suffix, tmp_path):
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        write_tensors(tmp_path / "missing" / f"a{suffix}", some_tensors())


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"old": np.ones(3, np.float32)})

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(InputError, match="No space left"):
        write_tensors(path, some_tensors())
    assert read_weights(path)[0].keys() == {"old"}
    assert os.listdir(tmp_path) == ["a.safetensors"]
