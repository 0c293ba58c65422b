"""Collectives and kernels of programs that were written by hand."""

import types

import pytest
from hlo import Collective, Kernel, collectives_of_text, kernels_of_text, read_collectives

PROGRAM = """HloModule jit_step, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %add.1 = f32[] add(%x, %y)
}

%inner_body (state: (s32[], bf16[2,3])) -> (s32[], bf16[2,3]) {
  %sum = bf16[2,3]{1,0} all-reduce(%x), replica_groups=[4,2]<=[8], to_apply=%add, metadata={op_name="all-reduce("}
  ROOT %inner = (s32[], bf16[2,3]) tuple(%i, %sum)
}

%outer_body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %while.1 = (s32[], bf16[2,3]) while(%t), condition=%c, body=%inner_body, backend_config={"known_trip_count":{"n":"3"}}
  %whole = f32[8,2]{1,0} all-gather(%part), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  ROOT %outer = (s32[], f32[8]) tuple(%i, %sum)
}

ENTRY %main (x: f32[8], y: (f32[], s8[3])) -> f32[] {
  %while.2 = (s32[], f32[8]) while(%t), condition=%c, body=%outer_body, backend_config={"known_trip_count":{"n":"5"}}
  %both = (f32[7]{0}, f32[], /*index=2*/f32[1,2]{1,0}) all-reduce(%a, %b, %c), replica_groups={}, to_apply=%add
  %part = f32[2]{0} reduce-scatter(%a), replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}, dimensions={0}, to_apply=%add
  %call.1 = f32[] call(%x), to_apply=%called
  ROOT %call.2 = f32[] call(%x), to_apply=%called
}

%called (x: f32[]) -> f32[] {
  ROOT %moved = pred[5]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
}
"""


def test_collectives_of_a_program_with_loops_in_loops():
    assert collectives_of_text(PROGRAM) == {
        Collective("all-reduce", 2, 12): 15,
        Collective("all-gather", 4, 64): 5,
        Collective("all-reduce", 8, 40): 1,
        Collective("reduce-scatter", 4, 32): 1,
        Collective("collective-permute", 8, 5): 2,
    }


@pytest.mark.parametrize(
    ("part", "other", "message"),
    [
        ('backend_config={"known_trip_count":{"n":"3"}}', "metadata={}", "how often a loop with collectives turns"),
        ("all-gather(", "all-gather-start(", "cannot be counted"),
        ("['data'=2,'fsdp'=4] {'fsdp'}", "['data'=8] {'data':(1)4}", "how many devices take part"),
    ],
)
def test_what_the_text_does_not_tell_is_an_error(part, other, message):
    assert part in PROGRAM
    with pytest.raises(ValueError, match=message):
        collectives_of_text(PROGRAM.replace(part, other))


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("all-reduce", 150), ("all-gather", 75), ("reduce-scatter", 75), ("all-to-all", 75), ("collective-permute", 100)],
)
def test_what_a_ring_of_four_sends(kind, sent):
    assert Collective(kind, 4, 100).sent_bytes == sent


def test_a_backend_that_does_not_show_its_programs():
    with pytest.raises(ValueError, match="does not show its programs"):
        read_collectives(types.SimpleNamespace(as_text=lambda: None))


KERNELS = """HloModule jit_step, is_scheduled=true

%stored (param_0: f32[4,8], param_1: s32[], param_2: f32[8]) -> f32[4,8] {
  %param_0 = f32[4,8]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %param_2 = f32[8]{0} parameter(2)
  %row = f32[1,8]{1,0} bitcast(%param_2)
  ROOT %put = f32[4,8]{1,0} dynamic-update-slice(%param_0, %row, %param_1, %param_1)
}

%read (param_0: f32[4,8], param_1: s32[]) -> f32[8] {
  %param_0 = f32[4,8]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %cut = f32[1,8]{1,0} dynamic-slice(%param_0, %param_1, %param_1), dynamic_slice_sizes={1,8}
  ROOT %row = f32[8]{0} bitcast(%cut)
}

%body (state: (s32[], f32[8], f32[4,8])) -> (s32[], f32[8], f32[4,8]) {
  %state = (s32[], f32[8]{0}, f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8]{0} get-tuple-element(%state), index=1
  %stack = f32[4,8]{1,0} get-tuple-element(%state), index=2
  %conv = (f32[8]{0}, u8[64]{0}) custom-call(%x, %x), custom_call_target="__cudnn$conv", metadata={op_name="conv1"}
  %y = f32[8]{0} get-tuple-element(%conv), index=0
  %put.1 = ((f32[4,8]{1,0}, s32[], f32[8]{0}), f32[4,8]{1,0}, u32[]) fusion-start(%stack, %i, %y), calls=%stored
  %put.2 = f32[4,8]{1,0} fusion-done(%put.1)
  ROOT %next = (s32[], f32[8]{0}, f32[4,8]{1,0}) tuple(%i, %y, %put.2)
}

%condition (state: (s32[], f32[8], f32[4,8])) -> pred[] {
  %state.1 = (s32[], f32[8]{0}, f32[4,8]{1,0}) parameter(0)
  ROOT %less = pred[] compare(%state.1, %state.1)
}

ENTRY %main (x: f32[8], y: f32[4,8]) -> f32[8] {
  %x.1 = f32[8]{0} parameter(0)
  %y.1 = f32[4,8]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8]{0}, f32[4,8]{1,0}) tuple(%zero, %x.1, %y.1)
  %while.1 = (s32[], f32[8]{0}, f32[4,8]{1,0}) while(%start), condition=%condition, body=%body, TRIPS
  %stack.1 = f32[4,8]{1,0} get-tuple-element(%while.1), index=2
  ROOT %last = f32[8]{0} fusion(%stack.1, %zero), kind=kLoop, calls=%read, metadata={op_name="bn1"}
}
"""


def test_kernels_of_a_loop_that_stores_slices():
    program = KERNELS.replace("TRIPS", 'backend_config={"known_trip_count":{"n":"4"}}')
    row, index, context = 4 * 8, 4, 4
    assert kernels_of_text(program) == [
        # A vector twice, which is read once, and its result without the scratchpad.
        Kernel("conv", "__cudnn$conv", 4, 2 * row, "conv1"),
        # The row that is read and the row that is written.
        Kernel("put.1", "fusion", 4, 2 * row + index + context, ""),
        Kernel("last", "fusion", 1, 2 * row + index, "bn1"),
    ]
