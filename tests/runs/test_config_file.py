"""config.json of this version, of the one before, of a later one, damaged and edited."""

import json
import zlib
from pathlib import Path

import pytest

from resnet_jax.configs import base, digits
from resnet_jax.configs.fields import CHANGES, Change, flat
from resnet_jax.errors import InputError
from resnet_jax.runs import config_file, workdir

# All fields of files without a version.
_VERSION_0 = {
    "model": "family depth shortcut zero_channels stride_in pool_alignment batch_norm_momentum batch_norm_epsilon "
    "group_size dtype remat unroll",
    "dataset": "name data_dir validation_images pad mirror",
    "stream": "side crop scales shorter_side interpolation normalization mean_images channel_order color_noise workers "
    "damaged_share",
    "optimizer": "learning_rate momentum weight_decay decay schedule boundaries factor patience warmup_learning_rate "
    "ramp_iterations trust_coefficient",
    "train": "batch_size accumulate iterations log_every eval_every checkpoint_every keep_last keep_every bad_steps",
    "eval": "batch_size",
    "mesh": "data fsdp",
}
VERSION_0 = ["seed", *(f"{section}.{name}" for section, names in _VERSION_0.items() for name in names.split())]


def fields_of(config):
    return json.loads(config.to_json_best_effort())


def save(directory, fields):
    (directory / "config.json").write_text(json.dumps(fields, indent=2))


@pytest.fixture
def saved(tmp_path):
    """The fields of a claimed workdir's config.json."""
    workdir.claim(tmp_path, digits.get_config())
    return json.loads((tmp_path / "config.json").read_text())


def test_a_config_comes_back_with_a_version_and_a_checksum(tmp_path, saved):
    assert saved["version"] == config_file.VERSION
    text = json.dumps({name: value for name, value in saved.items() if name != "checksum"}, sort_keys=True)
    assert saved["checksum"] == zlib.crc32(text.encode())
    assert workdir.read_config(tmp_path).to_dict() == digits.get_config().to_dict()


def test_order_and_spaces_are_no_edit(tmp_path, saved):
    (tmp_path / "config.json").write_text(json.dumps(saved, sort_keys=True, separators=(",", ":")))
    assert workdir.read_config(tmp_path).to_dict() == digits.get_config().to_dict()


def test_every_younger_field_has_the_value_that_older_runs_behaved_as():
    """A new field needs an entry in `configs.fields.CHANGES`, and so does another name of an old one."""
    names = set(VERSION_0)
    for change in CHANGES.values():
        assert set(change.renamed) <= names
        names = {change.renamed.get(name, name) for name in names} | set(change.younger)
    assert names == set(flat(fields_of(base.get_config())))


# What tests/runs/config_version_1.json says, by the names that its fields have since, where it is not the default.
VERSION_1 = {
    "dataset.name": "folder",
    "model.bn_group_size": 32,
    "model.shortcut_padding": "both",
    "model.bottleneck_stride": "3x3",
    "model.stem_pool_padding": "torch",
    "model.unroll": False,  # its default then
    "stream.image_size": 192,
    "stream.resize_size": 208,
    "stream.crop": "random_resized_crop",
    "stream.pca_lighting_std": 0.2,
    "stream.max_corrupt_fraction": 0.03,
    "stream.num_workers": 5,
    "optimizer.warmup_steps": 70,
    "optimizer.warmup_start": 0.004,
    "optimizer.constant_warmup": 0.02,
    "train.grad_accum_steps": 2,
    "train.max_skipped_steps": 6,
}


@pytest.mark.parametrize("version", [0, 1])
def test_a_file_of_a_version_before_is_read(tmp_path, version):
    text = Path(__file__).with_name("config_version_1.json").read_text()
    (tmp_path / "config.json").write_text(text)
    expected = VERSION_1
    if version == 0:
        fields = json.loads(text)
        del fields["version"], fields["checksum"], fields["model"]["zero_init_residual"]
        del fields["optimizer"]["momentum_form"], fields["optimizer"]["ramp_learning_rate"]
        assert set(flat(fields)) == set(VERSION_0)
        save(tmp_path, fields)
        expected = VERSION_1 | {"optimizer.warmup_start": None}
    found, default = (flat(fields_of(each)) for each in (workdir.read_config(tmp_path), base.get_config()))
    assert {name: value for name, value in found.items() if value != default[name]} == {
        name: value for name, value in expected.items() if value is not None
    }
    # The run goes on with a config of today's names.
    workdir.claim(tmp_path, workdir.read_config(tmp_path))


def test_renamed_and_younger_fields(tmp_path, monkeypatch):
    """Depth was called layers until a next version, and dtype came with the one after it, where all had computed in
    bfloat16.
    """
    version = config_file.VERSION
    monkeypatch.setitem(CHANGES, version + 1, Change({"model.layers": "model.depth"}, {}, {}))
    monkeypatch.setitem(CHANGES, version + 2, Change({}, {"model.dtype": "bfloat16"}, {}))
    monkeypatch.setattr(config_file, "VERSION", version + 2)
    fields = fields_of(digits.get_config())
    fields["model"]["layers"] = fields["model"].pop("depth") + 6
    fields["model"].pop("dtype")
    for saved in ({}, {"version": version}):
        save(tmp_path, {**saved, **fields})
        config = workdir.read_config(tmp_path)
        assert (config.model.depth, config.model.dtype) == (digits.get_config().model.depth + 6, "bfloat16")
    # The checksum is that of the fields as they were written.
    checksum = config_file.checksum({"version": version, **fields})
    save(tmp_path, {"version": version, "checksum": checksum, **fields})
    assert workdir.read_config(tmp_path).model.dtype == "bfloat16"
    save(tmp_path, {"version": version, "checksum": checksum + 1, **fields})
    with pytest.raises(InputError, match="its checksum is not that of its fields"):
        workdir.read_config(tmp_path)
    # A file of the next version has no old name any more; its dtype is a younger field still.
    save(tmp_path, {"version": version + 1, **fields})
    with pytest.raises(InputError, match=r"config\.model\.layers.* did you mean config\.model\.depth\?"):
        workdir.read_config(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.deph", 20, r"config\.model\.deph, .* did you mean config\.model\.depth\?"),
        ("sead", 1, r"config\.sead, .* did you mean config\.seed\?"),
        ("model.depth", "20", r"config\.model\.depth='20', but it must be a whole number"),
        ("model.depth", 20.0, r"config\.model\.depth=20\.0, but it must be a whole number"),
        ("model.depth", True, r"config\.model\.depth=True, but it must be a whole number"),
        ("model.depth", None, r"config\.model\.depth=None, but it must be a whole number"),
        ("model.remat", 1, r"config\.model\.remat=1, but it must be true or false"),
        ("model.family", 3, r"config\.model\.family=3, but it must be text"),
        ("model.bn_group_size", "all", r"config\.model\.bn_group_size='all', but it must be a whole number"),
        ("optimizer.learning_rate", "0.1", r"config\.optimizer\.learning_rate='0\.1', but it must be a number"),
        ("optimizer.boundaries", 3, r"config\.optimizer\.boundaries=3, but it must be a list of numbers"),
        ("optimizer.boundaries", ["3"], r"config\.optimizer\.boundaries=\['3'\], but it must be a list"),
        ("model", 3, r"config\.model, which is no field"),
        ("version", 2**30, r"of version 1073741824, made by a newer resnet_jax, .* update it"),
        ("version", "1", r"the version '1', but it must be a number"),
        ("version", -1, r"the version -1, but it must be a number"),
        ("model.depth", 26, r"damaged or was edited, .* put a copy of it back, .* remove its line \"checksum\""),
        ("model.shortcut", "C", r"damaged or was edited"),
        ("dataset.data_dir", "/elsewhere", r"damaged or was edited"),
    ],
)
@pytest.mark.parametrize("reader", ["read", "claim"])
def test_a_wrong_field_is_one_clear_line(tmp_path, saved, field, value, message, reader):
    *parents, last = field.split(".")
    section = saved
    for parent in parents:
        section = section[parent]
    section[last] = value
    save(tmp_path, saved)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(InputError, match=message) as error:
        workdir.read_config(tmp_path) if reader == "read" else workdir.claim(tmp_path, digits.get_config())
    assert str(tmp_path / "config.json") in str(error.value)
    assert "\n" not in str(error.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_an_edit_is_kept_where_the_checksum_is_removed(tmp_path, saved):
    del saved["checksum"]
    saved["model"]["depth"] = 26
    save(tmp_path, saved)
    assert workdir.read_config(tmp_path).model.depth == 26


@pytest.mark.parametrize("text", [b"", b"[]", b"3", b"null", b"\xff{}", b'{"seed": 0', b'"seed"', b"\x00" * 9])
def test_what_is_no_config_at_all(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(InputError, match=r"has no readable config\.json, for it is damaged: put a copy of it back"):
        workdir.read_config(tmp_path)


def test_a_config_with_a_field_of_its_own_claims_nothing(tmp_path):
    config = digits.get_config()
    config.unlock()
    config.model.note = "mine"
    with pytest.raises(InputError, match=r"the config holds config\.model\.note, which is no field"):
        workdir.claim(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_every_byte_of_a_config_matters_or_changes_nothing(tmp_path, saved):
    path = tmp_path / "config.json"
    text = path.read_bytes()
    wanted = digits.get_config().to_dict()
    noticed = 0
    for place in range(0, len(text), 7):
        path.write_bytes(text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :])
        try:
            assert workdir.read_config(Path(tmp_path)).to_dict() == wanted
        except InputError:
            noticed += 1
    # All but spaces, which become exclamation marks there.
    assert noticed > 0.8 * len(text) / 7
