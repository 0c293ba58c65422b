"""Whole networks: against a NumPy forward pass, rolled against unrolled, shapes, dtypes, initialisation, identities."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest

from resnet_jax import models
from resnet_jax.models.layers import BatchNorm

CIFAR8 = models.create("cifar_resnet8", num_classes=5)
SMALL = models.ResNet((3, 2, 2), (4, 8, 16), False, "cifar", 5, "A")
BOTTLENECK = models.ResNet((1, 2, 1, 1), (4, 8, 16, 32), True, "imagenet", 5, "B")


def initialise(model):
    return model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False)


def random_variables(model):
    """Like those of a trained network: nothing is zero or one."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        deviation = np.sqrt(2 / np.prod(leaf.shape[-4:-1])) if name == "kernel" else 0.3
        return rng.normal(0, deviation, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(lambda: initialise(model)))


def pictures(batch, height=8, width=8):
    return np.random.default_rng(7).normal(size=(batch, height, width, 3)).astype(np.float32)


def evaluate(model, variables, images, **kwargs):
    return jax.jit(lambda v, x: model.apply(v, x, False, **kwargs))(variables, images)


def train(model, variables, images):
    return jax.jit(lambda v, x: model.apply(v, x, True, mutable=["batch_stats"]))(variables, images)


def assert_close(actual, expected, tolerance):
    """Within `tolerance` of the largest element."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def assert_trees_close(actual, expected, tolerance):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, e: assert_close(a, np.asarray(e), tolerance), actual, expected)


@pytest.mark.parametrize(
    ("model", "fields", "size"),
    [
        (CIFAR8, {}, (16, 13)),
        (CIFAR8, {"shortcut_padding": "both", "epsilon": 0.1}, (16, 16)),
        (CIFAR8, {"shortcut": "B"}, (15, 16)),
        (CIFAR8, {"shortcut": "C"}, (16, 16)),
        (CIFAR8, {"shortcut": None}, (16, 16)),
        (SMALL, {"shortcut": "C"}, (9, 8)),
        (SMALL, {"block_layers": 1, "stage_sizes": (2, 2, 1)}, (8, 9)),
        (SMALL, {"block_layers": 3, "stage_sizes": (2, 1, 1)}, (9, 8)),
        (BOTTLENECK, {}, (33, 40)),
        (BOTTLENECK, {"bottleneck_stride": "3x3", "stem_pool_padding": "torch"}, (33, 40)),
        (BOTTLENECK, {"shortcut": "C", "stem_pool_padding": "torch"}, (32, 45)),
        (BOTTLENECK, {"shortcut": None, "bottleneck_stride": "3x3"}, (32, 32)),
        (BOTTLENECK, {"shortcut": "A", "widths": (16, 16, 24, 32)}, (40, 33)),
        (BOTTLENECK, {"bottleneck": False, "widths": (64, 64, 72, 80), "shortcut": "A"}, (32, 32)),
    ],
    ids=lambda value: "" if isinstance(value, models.ResNet) else str(value),
)
def test_logits_are_those_of_plain_numpy(model, fields, size):
    model = model.clone(**fields)
    variables = random_variables(model)
    images = pictures(2, *size)
    expected, _ = numpy_reference.resnet(model, variables, images)
    assert_close(evaluate(model, variables, images), expected, 1e-4)


def test_rolled_and_unrolled_scans_are_one_network():
    rolled = models.ResNet((3, 2), (4, 8), False, "cifar", 10, "A")
    unrolled = rolled.clone(unroll=True)
    variables = random_variables(rolled)
    assert jax.eval_shape(lambda: initialise(rolled)) == jax.eval_shape(lambda: initialise(unrolled))
    images = pictures(4)

    def step(model):
        def loss(params):
            logits, updated = model.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
            return jax.nn.log_softmax(logits)[:, 3].sum(), (logits, updated["batch_stats"])

        gradients, (logits, stats) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
        return {"logits": logits, "stats": stats, "gradients": gradients}

    assert_trees_close(step(rolled), step(unrolled), 1e-4)
    assert_close(evaluate(rolled, variables, images), evaluate(unrolled, variables, images), 1e-5)


def test_training_normalises_by_the_batch_and_evaluation_image_by_image():
    variables, images = random_variables(SMALL), pictures(4)
    together = evaluate(SMALL, variables, images)
    assert_close(evaluate(SMALL, variables, images[1:2]), together[1:2], 1e-5)
    logits, updated = train(SMALL, variables, images)
    assert np.abs(logits - together).max() > 0.01 * np.abs(together).max()
    changed = jax.tree.map(lambda new, old: bool(np.all(new != old)), updated["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(changed))


def test_momentum_and_group_size_reach_the_batch_norms():
    variables, images = random_variables(SMALL), pictures(4)

    logits, kept = train(SMALL.clone(bn_group_size=2, momentum=1.0), variables, images)
    halves = [train(SMALL.clone(momentum=0.25), variables, half) for half in np.split(images, 2)]
    assert_close(logits, np.concatenate([half for half, _ in halves]), 1e-5)
    assert_trees_close(kept["batch_stats"], variables["batch_stats"], 1e-6)
    batch = jax.tree.map(
        lambda old, *new: (np.mean(new, 0) - 0.25 * old) / 0.75,
        variables["batch_stats"],
        *(stats["batch_stats"] for _, stats in halves),
    )
    _, replaced = train(SMALL.clone(bn_group_size=2, momentum=0.0), variables, images)
    assert_trees_close(replaced["batch_stats"], batch, 1e-4)


@pytest.mark.parametrize(
    ("name", "fields", "size", "sides", "channels"),
    [
        ("resnet18", {}, 224, (56, 28, 14, 7), (64, 128, 256, 512)),
        ("resnet34", {}, 256, (64, 32, 16, 8), (64, 128, 256, 512)),
        ("resnet50", {}, 224, (56, 28, 14, 7), (256, 512, 1024, 2048)),
        ("resnet50", {"bottleneck_stride": "3x3"}, 640, (160, 80, 40, 20), (256, 512, 1024, 2048)),
        ("resnet50", {"shortcut": "A"}, 97, (24, 12, 6, 3), (256, 512, 1024, 2048)),
        ("resnet152", {"stem_pool_padding": "torch"}, 97, (25, 13, 7, 4), (256, 512, 1024, 2048)),
        ("plain34", {}, 640, (160, 80, 40, 20), (64, 128, 256, 512)),
        ("cifar_resnet110", {}, 32, (32, 16, 8), (16, 32, 64)),
        ("cifar_plain20", {}, 97, (97, 49, 25), (16, 32, 64)),
    ],
)
def test_shapes_at_any_input_size(name, fields, size, sides, channels):
    model = models.create(name, num_classes=7, **fields)
    variables = models.abstract_variables(model, (32, 32, 3))
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, False, method="stages"), variables, images)
    assert jax.eval_shape(lambda v, x: model.apply(v, x, False), variables, images).shape == (2, 7)
    assert maps.pop("stem").shape == (2, sides[0], sides[0], model.widths[0])
    expected = {f"stage{i}": (2, s, s, c) for i, (s, c) in enumerate(zip(sides, channels, strict=True), 1)}
    assert {name: leaf.shape for name, leaf in maps.items()} == expected


def test_the_logits_are_a_linear_function_of_the_averaged_last_map():
    variables, images = random_variables(BOTTLENECK), pictures(2, 64, 96)
    logits, maps = evaluate(BOTTLENECK, variables, images), evaluate(BOTTLENECK, variables, images, method="stages")
    assert maps["stage4"].shape == (2, 2, 3, 128)
    fc = variables["params"]["fc"]
    assert_close(np.asarray(maps["stage4"]).mean((1, 2)) @ fc["kernel"] + fc["bias"], logits, 1e-5)
    head = jax.jit(lambda v, x: BOTTLENECK.apply(v, x, method="head"))
    np.testing.assert_allclose(head(variables, maps["stage4"]), logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_a_stage_runs_alone_on_regions(train):
    variables, images = random_variables(BOTTLENECK), pictures(2, 64, 96)

    def regions(model, images):
        maps = model.stages(images, train)
        return maps, model.stage(4, maps["stage3"][:, :3, 1:4], train), model.stage(4, maps["stage3"], train)

    (maps, cut, whole), _ = jax.jit(lambda v, x: BOTTLENECK.apply(v, x, method=regions, mutable=["batch_stats"]))(
        variables, images
    )
    assert maps["stage3"].shape == (2, 4, 6, 64)
    assert cut.shape == (2, 2, 2, 128)
    assert_close(whole, maps["stage4"], 1e-5)


_FIELDS = ("stem", "shortcut", "shortcut_padding", "bottleneck_stride", "stem_pool_padding", "padding")


@pytest.mark.parametrize("field", _FIELDS)
def test_a_network_that_does_not_exist_cannot_be_made(field):
    with pytest.raises(ValueError, match=f"{field} is 'D', but it must be one of"):
        SMALL.clone(**{field: "D"})


def test_stages_without_blocks_or_widths_cannot_be_made():
    for stages, widths in (((1, 0), (4, 8)), ((1, 1), (4,)), ((), ())):
        with pytest.raises(ValueError, match="must be of the same stages, each of at least one block"):
            models.ResNet(stages, widths, False, "cifar", 5, "A")


@pytest.mark.parametrize("model", [SMALL, BOTTLENECK], ids=["basic", "bottleneck"])
def test_bfloat16_computes_close_to_float32_and_keeps_float32_state(model):
    model = model.clone(stage_sizes=(1, 3), widths=(4, 8))
    half = model.clone(dtype=jnp.bfloat16)
    variables, images = random_variables(half), pictures(4, 32, 32)
    logits, maps = evaluate(half, variables, images), evaluate(half, variables, images, method="stages")
    assert all(leaf.dtype == jnp.bfloat16 for leaf in maps.values())
    assert logits.dtype == jnp.float32
    assert_close(logits, evaluate(model, variables, images), 0.05)
    _, updated = train(half, variables, images)
    state = jax.tree.leaves((jax.eval_shape(lambda: initialise(half)), updated))
    assert all(leaf.dtype == jnp.float32 for leaf in state)


def test_convolutions_start_as_untruncated_gaussians_of_variance_2_over_fan_in():
    model = models.ResNet((3, 2), (32, 64), True, "imagenet", 1000, "B")
    params = jax.jit(lambda: initialise(model))()["params"]
    kernels = [
        (path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params) if "conv" in str(path[-2].key)
    ]
    assert len(kernels) == 1 + 2 * 4 + 2 * 3  # the stem, two first blocks with projections, two stacks
    for path, kernel in kernels:
        ratio = np.asarray(kernel, np.float64) / np.sqrt(2 / np.prod(kernel.shape[-4:-1]))
        name, n = jax.tree_util.keystr(path), ratio.size
        assert abs(ratio.mean()) < 5 / np.sqrt(n), name
        assert abs(ratio.std() - 1) < 5 / np.sqrt(2 * n), name
        assert abs((ratio**4).mean() - 3) < 5 * np.sqrt(96 / n), name  # 2.1 if it were cut at two deviations
        assert np.abs(ratio).max() > 2.5, name
    np.testing.assert_allclose(params["fc"]["kernel"].std(), 0.01, rtol=0.02)
    np.testing.assert_array_equal(params["fc"]["bias"], np.zeros(1000))


def test_every_scanned_layer_draws_its_own_kernel():
    model = models.ResNet((4,), (16,), False, "cifar", 5, "A")
    stage = jax.jit(lambda: initialise(model))()["params"]["stage1"]
    kernels = [stage["first"][name]["kernel"] for name in ("conv1", "conv2")]
    kernels += [kernel for name in ("conv1", "conv2") for kernel in stage["rest"][name]["kernel"]]
    correlations = np.corrcoef([np.ravel(kernel) for kernel in kernels]) - np.eye(8)
    assert np.abs(correlations).max() < 5 / np.sqrt(3 * 3 * 16 * 16)


@pytest.mark.parametrize(
    ("model", "last_norm", "size"),
    [(SMALL, "bn2", 8), (BOTTLENECK.clone(stage_sizes=(3, 2), widths=(4, 8)), "bn3", 33)],
    ids=["basic", "bottleneck"],
)
def test_blocks_with_a_zero_residual_are_identities(model, last_norm, size):
    variables, images = random_variables(model), pictures(3, size, size)
    stages = [f"stage{i}" for i in range(1, len(model.stage_sizes) + 1)]
    for stage in stages:
        norm = variables["params"][stage]["rest"][last_norm]
        variables["params"][stage]["rest"][last_norm] = {name: np.zeros_like(leaf) for name, leaf in norm.items()}
    shallow = {c: tree | {s: {"first": tree[s]["first"]} for s in stages} for c, tree in variables.items()}

    def pair(shortcut):
        deep_model = model.clone(shortcut=shortcut)
        shallow_model = deep_model.clone(stage_sizes=(1,) * len(stages))
        # Without jit: two programs fused otherwise may round the average over the last map otherwise.
        return deep_model.apply(variables, images, False), shallow_model.apply(shallow, images, False)

    np.testing.assert_array_equal(*pair(model.shortcut))
    deep, expected = pair(None)  # without shortcuts the same blocks erase the image
    np.testing.assert_array_equal(deep, deep[:1].repeat(3, 0))
    assert np.abs(expected - expected[:1]).max() > 0


def test_the_program_does_not_grow_with_depth():
    def program_size(depth):
        model, images = models.create(f"cifar_resnet{depth}"), jnp.zeros((2, 32, 32, 3))
        variables = jax.eval_shape(lambda: initialise(model))

        def loss(params, batch_stats):
            logits, updated = model.apply(
                {"params": params, "batch_stats": batch_stats}, images, True, mutable=["batch_stats"]
            )
            return logits.sum(), updated

        return len(jax.jit(jax.grad(loss, has_aux=True)).lower(variables["params"], variables["batch_stats"]).as_text())

    assert program_size(1202) < 1.1 * program_size(110)


def test_the_gradient_keeps_of_a_block_its_input_and_what_its_convolutions_gave():
    """Three maps of a block: not the values' squares and distances from the mean, nor what batch norm and ReLU gave."""
    model = models.ResNet((4,), (8,), False, "cifar", 5, "A")
    images = jnp.zeros((2, 16, 16, 3))
    variables = model.init(jax.random.key(0), images, train=False)

    def loss(params):
        return model.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])[0].sum()

    _, backward = jax.eval_shape(partial(jax.vjp, loss), variables["params"])
    kept = [leaf.shape for leaf in jax.tree.leaves(backward) if leaf.shape[:3:2] == (3, 16)]
    assert kept == 3 * [(3, 2, 16, 16, 8)]


@pytest.mark.parametrize("unroll", [False, True])
def test_the_responses_of_all_layers_can_be_captured_through_the_scan(unroll):
    model = models.create("cifar_resnet20", unroll=unroll)
    variables, images = random_variables(model), pictures(2)
    _, captured = jax.jit(
        lambda variables, images: model.apply(
            variables,
            images,
            False,
            capture_intermediates=lambda module, _: isinstance(module, BatchNorm),
            mutable=["intermediates"],
        )
    )(variables, images)
    tree = captured["intermediates"]
    responses = [tree["bn1"]["__call__"][0]]
    for stage in ("stage1", "stage2", "stage3"):
        first, rest = tree[stage]["first"], tree[stage]["rest"]
        responses += [first[norm]["__call__"][0] for norm in ("bn1", "bn2")]
        responses += [rest[norm]["__call__"][0][i] for i in range(2) for norm in ("bn1", "bn2")]
    _, expected = numpy_reference.resnet(model, variables, images)
    assert len(responses) == len(expected) == 19
    for actual, reference in zip(responses, expected, strict=True):
        assert_close(actual, reference, 1e-4)


def test_the_parts_of_a_network_can_be_frozen_by_name():
    for name, last in (("cifar_resnet20", 3), ("cifar_plain8", 3), ("resnet50", 4), ("plain18", 4)):
        stages = [f"stage{i}" for i in range(1, last + 1)]
        model = models.create(name)
        assert (model.parts, model.frozen) == (("stem", *stages, "fc"), ())
        for i, freeze in enumerate(("stem", *stages)):
            assert model.clone(freeze=freeze).frozen == ("conv1", "bn1", *stages[:i])
        assert model.clone(freeze="backbone").frozen == ("conv1", "bn1", *stages)
        assert model.clone(freeze="stem", live_statistics=True).frozen_statistics == ()
        for wrong in ("fc", f"stage{last + 1}", "stage0", "conv1", ""):
            with pytest.raises(ValueError, match=f"freeze is '{wrong}', but .* are stem, .*stage{last}, backbone$"):
                model.clone(freeze=wrong)


def test_frozen_parts_are_as_in_evaluation_and_no_gradient_enters_them():
    variables, images = random_variables(SMALL), pictures(2)
    for live in (False, True):
        model = SMALL.clone(freeze="stage2", live_statistics=live)

        def loss(params, model=model):
            logits, updated = model.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
            return logits[:, 0].sum(), updated["batch_stats"]

        gradients, stats = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
        assert {name for name, each in gradients.items() if any(leaf.any() for leaf in jax.tree.leaves(each))} == {
            "stage3",
            "fc",
        }
        _, all_live = train(SMALL, variables, images)
        expected = all_live["batch_stats"] if live else variables["batch_stats"]
        assert_trees_close(stats["stage2"], expected["stage2"], 1e-6 if live else 0)
