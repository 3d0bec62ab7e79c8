"""The PTX machine lets threads diverge and meet again as PTX defines it, and finds those that never meet."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from offline.ptx.machine import Deadlock, Machine
from offline.ptx.order import OrderedMemory
from offline.ptx.program import Program

THREADS = 64
OUT = 0x7F00_0000_1000
HEAD = """
.version 8.0
.target sm_80
.extern .shared .align 16 .b8 bytes[];
.visible .entry test_kernel(
    .param .u64 test_kernel_param_0
)
{
    .reg .pred %p<9>;
    ld.param.u64 %rd1, [test_kernel_param_0];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    mov.u32 %r9, 0;
"""
TAIL = """
    st.global.u32 [%rd3], %r9;
    ret;
}
"""


def run(body: str, threads: int = THREADS) -> tuple[NDArray[np.uint32], list[str]]:
    """Run a program whose threads store %r9; return what they stored and the faults."""
    out, found = np.zeros(4 * THREADS, np.uint8), Counter[str]()
    memory = OrderedMemory({OUT: out}, frozenset(), THREADS // 32, found)
    program = Program.read(HEAD + body + TAIL)
    Machine(program, [OUT.to_bytes(8, "little")], memory, (0, 0, 0), (1, 1, 1), 256, threads=threads).run()
    memory.close()
    return out.view(np.uint32)[:threads], [*found]


LOOP = """
    and.b32 %r2, %r1, 3;
LOOP:
    add.u32 %r9, %r9, 10;
    setp.eq.u32 %p1, %r2, 0;
    @%p1 bra DONE;
    sub.u32 %r2, %r2, 1;
    bra.uni LOOP;
DONE:
"""


def test_threads_leave_a_loop_one_after_the_other_and_go_on_together() -> None:
    result, found = run(LOOP + "shfl.sync.bfly.b32 %r3|%p2, %r9, 1, 31, -1;\n    mov.u32 %r9, %r3;")
    rounds = 10 * (np.arange(THREADS) % 4 + 1)
    assert result.tolist() == rounds[np.arange(THREADS) ^ 1].tolist() and not found


def test_both_sides_of_a_branch_are_executed_by_their_threads_only() -> None:
    body = """
    setp.lt.u32 %p1, %r1, 20;
    @%p1 bra LOW;
    mov.u32 %r9, 7;
    bra.uni MEET;
LOW:
    add.u32 %r9, %r1, 100;
MEET:
    """
    result, found = run(body)
    assert result.tolist() == [thread + 100 if thread < 20 else 7 for thread in range(THREADS)] and not found


def test_threads_that_return_leave_the_rest_alone() -> None:
    result, found = run("setp.gt.u32 %p1, %r1, 40;\n    @%p1 ret;\n    mov.u32 %r9, 5;")
    assert result.tolist() == [5 * (thread <= 40) for thread in range(THREADS)] and not found


def test_a_block_that_does_not_fill_its_last_warp_has_no_further_threads() -> None:
    result, found = run("bar.sync 0;\n    mov.u32 %r9, %ntid.x;", threads=40)
    assert result.tolist() == [40] * 40 and not found


def test_a_shuffle_waits_for_lanes_and_its_lack_is_a_deadlock() -> None:
    shuffle = "shfl.sync.bfly.b32 %r3|%p2, %r1, 1, 31, -1;"
    with pytest.raises(Deadlock, match=r"never come, at shfl\.sync\.bfly\.b32"):
        run(f"setp.lt.u32 %p1, %r1, 20;\n    @%p1 bra OUT;\n    {shuffle}\nOUT:")


def test_a_mask_without_the_lane_itself_is_found() -> None:
    _, found = run("shfl.sync.bfly.b32 %r3|%p2, %r1, 1, 31, -2;")
    assert found == ["a lane is not in the mask that it gives: shfl.sync.bfly.b32 %r3|%p2, %r1, 1, 31, -2"]


def test_a_barrier_that_threads_have_left_is_found() -> None:
    _, found = run("setp.gt.u32 %p1, %r1, 40;\n    @%p1 ret;\n    bar.sync 0;")
    assert found == ["threads have ended that a barrier waits for: bar.sync 0"]


def test_a_warp_that_waits_at_two_barriers_is_found() -> None:
    body = (
        "setp.lt.u32 %p1, %r1, {};\n    @%p1 bra LOW;\n    bar.sync 0;\n    bra.uni MEET;\nLOW:\n    bar.sync 0;\nMEET:"
    )
    _, found = run(body.format(20))
    assert found == ["threads of a warp meet at several barriers: bar.sync 0"]
    # whole warps may
    assert run(body.format(32))[1] == []


def test_a_branch_that_is_said_to_be_uniform_and_is_not_is_found() -> None:
    _, found = run("setp.lt.u32 %p1, %r1, 20;\n    @%p1 bra.uni OUT;\nOUT:")
    assert found == ["a branch that is said to be uniform is not: @%p1 bra.uni OUT"]


STORE = (
    "mov.u32 %r4, bytes;\n    mul.lo.u32 %r5, %r1, 4;\n    add.u32 %r6, %r4, %r5;\n    st.shared.u32 [%r6], %r1;\n    "
)


@pytest.mark.parametrize("barrier", [True, False])
def test_generic_and_shared_addresses_are_one_memory_behind_a_barrier(barrier: bool) -> None:
    load = "cvta.shared.u64 %rd5, bytes;\n    xor.b32 %r7, %r5, 128;\n    cvt.u64.u32 %rd6, %r7;\n    "
    load += "add.s64 %rd7, %rd5, %rd6;\n    ld.u32 %r9, [%rd7];"
    result, found = run(STORE + ("bar.sync 0;\n    " if barrier else "") + load)
    assert result.tolist() == [thread ^ 32 for thread in range(THREADS)]
    assert found == (
        [] if barrier else ["shared memory that another warp wrote is read without a barrier: ld.u32 %r9, [%rd7]"]
    )


@pytest.mark.parametrize(
    ("access", "problem"),
    [
        ("st.global.u32 [%rd3+4], %r9;", "out of bounds"),
        ("st.global.u32 [%rd3+2], %r9;", "misaligned"),
        ("ld.shared.u32 %r9, [bytes+256];", "out of bounds"),
        ("ld.param.u32 %r9, [test_kernel_param_0+8];", "out of bounds"),
    ],
)
def test_an_address_that_is_wrong_is_refused(access: str, problem: str) -> None:
    with pytest.raises(IndexError, match=problem):
        run(access)


def test_two_warps_that_write_one_word_are_a_race() -> None:
    _, found = run("st.global.u32 [%rd1], %r1;\n    bar.sync 0;")
    assert found == ["race in global memory: it is written by two warps at once: st.global.u32 [%rd1], %r1"]
