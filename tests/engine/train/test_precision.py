import pytest
import torch

from unmask.train.precision import choose_precision


@pytest.mark.parametrize(
    ("capabilities", "dtype", "reason"),
    [
        ({"avx512_bf16": True}, torch.bfloat16, "this CPU has avx512_bf16"),
        ({"avx512_bf16": True, "amx_bf16": True}, torch.bfloat16, "this CPU has amx_bf16 and avx512_bf16"),
        ({"avx512_f": True}, torch.float32, "this CPU has neither amx_bf16 nor avx512_bf16"),
    ],
)
def test_auto_follows_what_the_cpu_multiplies_fast(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], dtype: torch.dtype, reason: str
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    chosen = choose_precision("auto", "cpu")
    assert (chosen.dtype, chosen.reason) == (dtype, reason)


@pytest.mark.parametrize(("limit", "dtype"), [("AVX2", torch.float32), ("ALL", torch.bfloat16)])
def test_auto_follows_what_the_library_of_products_may_use(
    monkeypatch: pytest.MonkeyPatch, limit: str, dtype: torch.dtype
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert choose_precision("auto", "cpu").dtype == dtype


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_auto_takes_bf16_on_gpus_with_tensor_cores_for_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    assert choose_precision("auto", "cuda").dtype == dtype


def test_a_slow_request_is_honoured_and_called_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    chosen = choose_precision("bfloat16", "cpu")
    assert chosen.dtype == torch.bfloat16
    assert "slower than float32" in chosen.reason
    assert choose_precision("float32", "cpu").dtype == torch.float32
