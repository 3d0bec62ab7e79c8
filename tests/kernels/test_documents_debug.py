"""Debug mode: the contents of boundaries that lie on a device are read, and refused like those on the host."""

from __future__ import annotations

import pytest
import torch

from unmask_kernels import Documents, checks


def test_contents_on_a_device_are_read_in_debug_mode_only(monkeypatch: pytest.MonkeyPatch) -> None:
    # a meta tensor has no contents: reading them is an error
    boundaries = torch.zeros(3, dtype=torch.int32, device="meta")
    assert Documents.build(boundaries, tokens=8, max_seqlen=5).positions.shape == (8,)
    monkeypatch.setattr(checks, "DEBUG", True)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        Documents.build(boundaries, tokens=8, max_seqlen=5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("boundaries", "message"),
    [
        ([0, 5, 3], "entry 2 is 3 after 5; give offsets, not lengths"),
        ([0, 4], r"end at the number of tokens \(3\), ends at 4"),
        ([1, 3], "cu_seqlens must start at 0, starts at 1"),
        ([0, 3, 3], "max_seqlen must bound every document, is 2 but one has 3"),
    ],
)
def test_wrong_contents_on_a_gpu_are_refused_in_debug_mode(
    boundaries: list[int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "DEBUG", True)
    with pytest.raises(ValueError, match=f"documents: .*{message}"):
        Documents.build(torch.tensor(boundaries, dtype=torch.int32, device="cuda"), tokens=3, max_seqlen=2)
