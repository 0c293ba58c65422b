"""What the devices send each other: the collectives of the compiled programs, to the byte."""

import math
import re
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest
from collectives import compile_step
from hlo import Collective, read_collectives
from jax import ShapeDtypeStruct
from jax.sharding import PartitionSpec as P

from resnet_jax import models
from resnet_jax.data.batch import Batch
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.resident import Augmentation, eval_batch, train_batch
from resnet_jax.data.small import Split
from resnet_jax.distributed.mesh import AXES, batch_sharded, make_mesh, replicated
from resnet_jax.training import optimizers
from resnet_jax.training.compiled import compile_evaluation, compile_steps
from resnet_jax.training.state import abstract_state
from resnet_jax.training.step import eval_step, train_step

KINDS = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")
OPTIMIZER = optimizers.sgd(optax.constant_schedule(0.1), momentum=0.9, weight_decay=1e-4)
SIDE, BATCH, FLOAT = 8, 16, 4


def network(group=None, shortcut="A", **fields):
    """Two stages of one block and of three, two of which are scanned."""
    return models.ResNet((1, 3), (4, 8), False, "cifar", 5, shortcut, bn_group_size=group, **fields)


def variables_of(model):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)), train=False))


def size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def ends_with_bytes(model):
    """Of gradients, running statistics, loss, errors and count."""
    return FLOAT * (size(variables_of(model)) + 3)


def scales(model):
    """The shapes of the batch norms' scales: (channels,), or (blocks, channels)."""
    paths = jax.tree.leaves_with_path(variables_of(model)["params"])
    return [leaf.shape for path, leaf in paths if path[-1].key == "scale"]


def norms(model):
    return sum(math.prod(shape[:-1]) for shape in scales(model))


def norm_bytes(model):
    """Of two moments for each channel, or their cotangents, forward and backward."""
    return 2 * 2 * FLOAT * sum(math.prod(shape) for shape in scales(model))


def instructions(compiled):
    """How often each collective stands in a compiled program."""
    text = compiled.as_text()
    found = {kind: len(re.findall(rf" {kind}(?:-start)?\(", text)) for kind in KINDS}
    return {kind: count for kind, count in found.items() if count}


def stream_step(model, *, fsdp=1, batch_size=BATCH, grad_accum_steps=1):
    mesh = make_mesh(8 // fsdp, fsdp)
    return compile_step(model, mesh, batch_size=batch_size, image_size=SIDE, grad_accum_steps=grad_accum_steps)[1]


def resident(mesh):
    """The shapes of a data set on the devices, and of its pre-processing."""
    everywhere = replicated(mesh)
    images = ShapeDtypeStruct((3 * BATCH, SIDE, SIDE, 3), jnp.uint8, sharding=everywhere)
    labels = ShapeDtypeStruct((3 * BATCH,), jnp.int32, sharding=everywhere)
    mean, std = (ShapeDtypeStruct(shape, jnp.float32, sharding=everywhere) for shape in ((SIDE, SIDE, 3), (1, 1, 3)))
    return Split(images, labels), Preprocessing(mean, std)


def resident_steps(model, steps):
    mesh = make_mesh(8)
    train_steps = compile_steps(
        partial(train_step, model=model, optimizer=OPTIMIZER, mesh=mesh),
        lambda data, seed, step: train_batch(*data, Augmentation(1, True), seed, step, BATCH),
        mesh,
    )
    state = abstract_state(model, OPTIMIZER, (SIDE, SIDE, 3), mesh)
    seed = ShapeDtypeStruct((), jnp.uint32, sharding=replicated(mesh))
    return train_steps.lower(state, resident(mesh), seed, steps).compile()


def test_a_step_with_groups_inside_devices_is_one_all_reduce():
    model = network(group=2)
    compiled = stream_step(model)
    assert instructions(compiled) == {"all-reduce": 1}
    assert read_collectives(compiled) == {Collective("all-reduce", 8, ends_with_bytes(model)): 1}


@pytest.mark.slow
def test_three_steps_of_one_dispatch_are_three_all_reduces():
    """The number of examples, which XLA knows to be the same in every step, is summed once and before them."""
    model = network(group=2)
    compiled = resident_steps(model, 3)
    assert instructions(compiled) == {"all-reduce": 2}
    assert read_collectives(compiled) == {
        Collective("all-reduce", 8, ends_with_bytes(model) - FLOAT): 3,
        Collective("all-reduce", 8, FLOAT): 1,
    }


def test_a_gradient_that_two_layers_share_is_sent_once():
    """The last batch norm of a block and that of its projection are added: the gradients of their biases are equal."""
    model = network(group=2, shortcut="B")
    projected = variables_of(model)["params"]["stage2"]["first"]["shortcut"]["bn"]["bias"]
    expected = ends_with_bytes(model) - FLOAT * size(projected)
    assert read_collectives(stream_step(model)) == {Collective("all-reduce", 8, expected): 1}


def test_a_batch_norm_over_all_devices_adds_two_all_reduces():
    model = network()
    found = read_collectives(stream_step(model))
    assert {(each.kind, each.devices) for each in found} == {("all-reduce", 8)}
    assert sum(each.bytes * count for each, count in found.items()) == ends_with_bytes(model) + norm_bytes(model)
    # The last one, of the first batch norm, can be combined with the gradients.
    assert 2 * norms(model) <= sum(found.values()) <= 2 * norms(model) + 1


@pytest.mark.slow
def test_groups_of_two_devices_reduce_among_these():
    model = network(group=4)
    compiled = stream_step(model)
    found = read_collectives(compiled)
    assert found.pop(Collective("all-reduce", 8, ends_with_bytes(model))) == 1
    assert {(each.kind, each.devices) for each in found} == {("all-reduce", 2)}
    assert sum(each.bytes * count for each, count in found.items()) == norm_bytes(model)
    assert sum(found.values()) == 2 * norms(model)
    groups = re.findall(r" all-reduce\(.*?replica_groups=(\{\{[\d,{}]*\}\}|\S+)", compiled.as_text())
    # All eight devices, as jax 0.10 and 0.12 write it.
    everybody = {"{{0,1,2,3,4,5,6,7}}", "mesh['data'=8,'fsdp'=1]"}
    assert set(groups) - everybody == {"{{0,1},{2,3},{4,5},{6,7}}"}
    assert set(groups) & everybody


@pytest.mark.parametrize(("group", "parts_communicate"), [(2, False), pytest.param(None, True, marks=pytest.mark.slow)])
def test_an_accumulated_batch_is_reduced_once(group, parts_communicate):
    # In bfloat16, which changes nothing: parameters and statistics are float32.
    model = network(group, dtype=jnp.bfloat16)
    found = read_collectives(stream_step(model, batch_size=4 * BATCH, grad_accum_steps=4))
    # And the count of the errors, which stands in a loop where XLA does not see that it is that of the losses.
    expected = ends_with_bytes(model) + FLOAT + (4 * norm_bytes(model) if parts_communicate else 0)
    assert sum(each.bytes * count for each, count in found.items()) == expected
    assert {each.kind for each in found} == {"all-reduce"}
    assert max(found, key=lambda each: each.bytes).bytes > 0.9 * ends_with_bytes(model)
    assert sum(found.values()) <= 1 + (4 * 2 * norms(model) if parts_communicate else 0)


def test_cut_parameters_are_gathered_once_and_their_gradients_scattered():
    model = network(group=2)
    compiled = stream_step(model, fsdp=4)
    variables = variables_of(model)
    leaves = jax.tree.leaves(variables["params"])
    cut = size([leaf for leaf in leaves if any(length % 4 == 0 for length in leaf.shape)])
    whole = size(variables) - cut
    assert 0 < size(variables["params"]) - cut < 0.01 * cut
    sums = Counter()
    for each, count in read_collectives(compiled).items():
        sums[each.kind, each.devices] += each.bytes * count
    assert sums == {
        ("all-gather", 4): FLOAT * cut,
        ("reduce-scatter", 4): FLOAT * cut,
        # Of what each of four devices keeps, with the other four; and of what every device keeps.
        ("all-reduce", 2): FLOAT * cut // 4,
        ("all-reduce", 8): FLOAT * (whole + 3),
    }
    assert instructions(compiled)["all-reduce"] == 2


def test_evaluation_sends_the_totals_only():
    mesh, model = make_mesh(8), network(group=2)
    everywhere, cut = replicated(mesh), batch_sharded(mesh)
    variables = jax.tree.map(
        lambda leaf: ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), variables_of(model)
    )
    split, preprocessing = resident(mesh)
    step = partial(eval_step, model=model)
    evaluate = compile_evaluation(step, lambda data, index: eval_batch(*data, index, BATCH), mesh)
    found = read_collectives(evaluate.lower(variables, (split, preprocessing), 3).compile())
    assert {each.kind for each in found} == {"all-reduce"}
    # Of three batches: loss, errors, and the count of each.
    assert sum(each.bytes * count for each, count in found.items()) == 3 * 4 * FLOAT

    batch = Batch(
        ShapeDtypeStruct((BATCH, SIDE, SIDE, 3), jnp.uint8, sharding=cut),
        ShapeDtypeStruct((BATCH,), jnp.int32, sharding=cut),
        ShapeDtypeStruct((BATCH,), jnp.float32, sharding=cut),
    )
    evaluate = compile_evaluation(step, lambda data, _: data[0]._replace(images=data[1](data[0].images)), mesh)
    found = read_collectives(evaluate.lower(variables, (batch, preprocessing), 1).compile())
    assert {each.kind for each in found} == {"all-reduce"}
    assert sum(each.bytes * count for each, count in found.items()) == 4 * FLOAT


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(("group", "expected"), [(None, {"all-reduce"}), (2, set()), (1, set()), (4, {"all-reduce"})])
def test_the_forward_communicates_only_where_a_group_crosses_devices(mapped, group, expected):
    mesh, model = make_mesh(8), network(group)
    if mapped:
        model = model.clone(axis_name=AXES)

    def logits(variables, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])[0]

    if mapped:
        batch = P(AXES)
        logits = jax.shard_map(logits, mesh=mesh, in_specs=(P(), batch), out_specs=batch, check_vma=False)
    sharded = batch_sharded(mesh)
    forward = jax.jit(logits, in_shardings=(replicated(mesh), sharded), out_shardings=sharded)
    images = ShapeDtypeStruct((BATCH, SIDE, SIDE, 3), jnp.float32)
    assert set(instructions(forward.lower(variables_of(network()), images).compile())) == expected
