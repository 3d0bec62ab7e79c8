"""Listings of compiled kernels are read correctly: predicates, modifiers, labels, branches."""

from __future__ import annotations

from offline import sass

# a loop from .L_x_1, an inner loop from .L_x_2, a forward branch, and the branch to itself that ends a kernel
LISTING = """
        .section  .text._kernel
_kernel:
.text._kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/              @!P0 BRA `(.L_x_3) ;
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
.L_x_2:
        /*0030*/              @P1  FFMA R4, R5, R6, R4 ;
        /*0040*/            @!UP0  UIADD3 UR4, UR4, 0x1, URZ ;
        /*0050*/                   STS [R0], R4 ;
        /*0060*/               @P2 BRA `(.L_x_2) ;
        /*0070*/               @P3 BRA `(.L_x_1) ;
.L_x_3:
        /*0080*/                   EXIT ;
.L_x_4:
        /*0090*/                   BRA `(.L_x_4);
        /*00a0*/                   NOP ;
"""


def test_opcodes_come_in_order_with_their_modifiers_and_without_predicates() -> None:
    names = "MOV BRA LDG.E.128 FFMA UIADD3 STS BRA BRA EXIT BRA NOP"
    assert sass.opcodes(LISTING) == names.split()


def test_an_innermost_loop_goes_from_a_label_to_the_branch_back_to_it() -> None:
    assert list(sass.inner_loops(LISTING)) == [["FFMA", "UIADD3", "STS", "BRA"]]


def test_two_loops_one_after_the_other_are_both_innermost() -> None:
    twice = LISTING + LISTING.replace(".L_x_", ".L_x_1")
    assert len(list(sass.inner_loops(twice))) == 2


def test_a_kernel_without_loops_has_none() -> None:
    straight = LISTING.replace("@P2 BRA `(.L_x_2)", "NOP").replace("@P3 BRA `(.L_x_1)", "NOP")
    assert list(sass.inner_loops(straight)) == []
