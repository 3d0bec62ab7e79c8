"""Registers that are touched while a wgmma uses them are found in a listing."""

from __future__ import annotations

import pytest

from offline.in_flight import touched_in_flight

# sums in R24 to R55, and the loop's in R88 to R119 with a left operand from R56 on; the loop's product ends in its next
# round, or behind the loop
SOUND = """
        /*0000*/                   CS2R R88, SRZ ;
.L_x_1:
        /*0010*/                   WARPGROUP.ARRIVE ;
        /*0020*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR20], RZ, !UPT ;
        /*0030*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR24], R24, gsb0 ;
        /*0040*/                   IADD3 R4, R4, 0x1, RZ ;
        /*0050*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0060*/                   F2FP.BF16.F32.PACK_AB R56, R25, R24 ;
        /*0070*/                   HGMMA.64x64x16.F32.BF16 R88, R56, gdesc[UR28].tnspB, R88, gsb0 ;
        /*0080*/                   LDS.128 R0, [R4+0x10] ;
        /*0090*/               @P0 BRA `(.L_x_1) ;
        /*00a0*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*00b0*/                   STG.E.128 desc[UR4][R2.64], R88 ;
        /*00c0*/                   EXIT ;
.L_x_2:
        /*00d0*/                   BRA `(.L_x_2);
"""


def test_code_that_waits_for_its_products_is_sound() -> None:
    assert touched_in_flight(SOUND) == []


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("IADD3 R4, R4, 0x1, RZ", "FADD R5, R55, R4", "FADD R5, R55, R4 touches R55 of HGMMA"),
        ("IADD3 R4, R4, 0x1, RZ", "LDS.128 R20, [R4]", None),
        ("IADD3 R4, R4, 0x1, RZ", "LDS.128 R21, [R4]", "LDS.128 R21, [R4] touches R24"),
        ("IADD3 R4, R4, 0x1, RZ", "LDG.E R4, desc[UR4][R54.64]", "touches R54"),
        ("IADD3 R4, R4, 0x1, RZ", "CS2R R22, SRZ", None),
        ("IADD3 R4, R4, 0x1, RZ", "CS2R R23, SRZ", "touches R24"),
        ("IADD3 R4, R4, 0x1, RZ", "IMAD.WIDE R22, R23, 0x600, RZ", None),
        ("IADD3 R4, R4, 0x1, RZ", "IMAD.WIDE R20, R21, R22, R23", "touches R24"),
        ("LDS.128 R0, [R4+0x10]", "LDS.128 R0, [R59+0x10]", "touches R59"),
        ("LDS.128 R0, [R4+0x10]", "@!P1 MOV R58, R4", "MOV R58, R4 touches R58"),
        # behind the loop, and in its next round
        ("WARPGROUP.DEPBAR.LE gsb0, 0x0 ;\n        /*00b0*/", "NOP ;\n        /*00b0*/", "STG.E.128"),
        ("WARPGROUP.ARRIVE", "MOV R119, R4", "MOV R119, R4 touches R119"),
        # the last group may go on, the one before it may not
        ("DEPBAR.LE gsb0, 0x0 ;\n        /*0060*/", "DEPBAR.LE gsb0, 0x1 ;\n        /*0060*/", "touches R24"),
        # of two products in flight, one overwrites what the other reads
        ("LDS.128 R0, [R4+0x10]", "HGMMA.64x16x16.F32.BF16 R52, gdesc[UR4], RZ, !UPT", "touches R56"),
        ("LDS.128 R0, [R4+0x10]", "HGMMA.64x64x16.F32.BF16 R120, R56, gdesc[UR4], R120", None),
    ],
)
def test_a_listing_broken_on_purpose_is_caught(line: str, instead: str, said: str | None) -> None:
    assert line in SOUND
    found = touched_in_flight(SOUND.replace(line, instead))
    assert any(said in each for each in found) if said else not found, found


def test_a_product_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot read the shape of HGMMA\.64x64x16\.S32"):
        touched_in_flight(SOUND.replace("HGMMA.64x64x16.F32.BF16 R24", "HGMMA.64x64x16.S32.U8 R24"))
