"""Linear layers by oneDNN give what those of PyTorch give, up to rounding."""

import copy

import pytest
import torch
import torch.nn.functional as F

from sam_server.network import linear as linear_module
from sam_server.network.layers import PART_TOKENS, MlpBlock
from sam_server.network.linear import Linear, linear, products, use_onednn

ERROR = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (1, 7), (64, 64), (0, 3), (2, 5, 7), (3, 4, 5, 6)])
def test_equals_torch(shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(*shape, 128).to(dtype), torch.randn(64, 128).to(dtype)
    given = torch.randn(64).to(dtype) if bias else None
    with torch.inference_mode():
        found, expected = linear(x, weight, given), F.linear(x, weight, given)
    assert (found.shape, found.dtype) == (expected.shape, dtype)
    assert (found - expected).float().norm() <= ERROR[dtype] * expected.float().norm()


def test_any_order_of_memory() -> None:
    """Slices and transposed arrays, as the decoder has them."""
    torch.manual_seed(0)
    wide = torch.randn(9, 7, 300)
    with torch.inference_mode():
        for x in (wide[:, 0, :128], wide[..., ::2][..., :128], wide.transpose(0, 1)[..., 100:228], wide[3:4, :, 4:132]):
            for weight in (torch.randn(64, 128), torch.randn(128, 64).T, torch.randn(64, 200)[:, 50:178]):
                torch.testing.assert_close(linear(x, weight), F.linear(x, weight), atol=1e-4, rtol=0)


def test_onednn_gets_nothing_with_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[torch.Tensor] = []

    class Spy:
        def _linear_pointwise(self, x: torch.Tensor, weight: torch.Tensor, *_: object) -> torch.Tensor:
            given.extend((x, weight))
            return x @ weight.T

    monkeypatch.setattr(torch.ops, "mkldnn", Spy())
    monkeypatch.setattr(linear_module, "_has_onednn", lambda: True)
    with torch.inference_mode():
        linear(torch.randn(32, 200)[:, :128], torch.randn(128, 64).T)
    assert len(given) == 2
    assert all(array.is_contiguous() or array.T.is_contiguous() for array in given)


def test_onednn_gets_no_bf16_where_it_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors without AVX-512."""

    class Refusing:
        def _is_mkldnn_bf16_supported(self) -> bool:
            return False

        def _linear_pointwise(self, *_: object) -> torch.Tensor:
            raise RuntimeError("could not create a primitive descriptor")

    monkeypatch.setattr(torch.ops, "mkldnn", Refusing())
    monkeypatch.setattr(linear_module, "_has_onednn", lambda: True)
    monkeypatch.setattr(linear_module, "_dtypes", linear_module._dtypes.__wrapped__)  # not what is cached
    x, weight = torch.randn(3, 128), torch.randn(64, 128)
    with torch.inference_mode():
        found = linear(x.bfloat16(), weight.bfloat16())
        assert torch.equal(found, F.linear(x.bfloat16(), weight.bfloat16()))
        with pytest.raises(RuntimeError, match="primitive"):
            linear(x, weight)


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("transposed", [True, False])
def test_products_of_pairs(dtype: torch.dtype, transposed: bool) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(3, 7, 128).to(dtype), torch.randn(3, 192, 128).to(dtype)
    y = y.transpose(-2, -1).contiguous().transpose(-2, -1) if transposed else y
    with torch.inference_mode():
        expected = torch.bmm(x, y.transpose(-2, -1))
        found = products(x, y)
    assert (found.shape, found.dtype) == ((3, 7, 192), dtype)
    assert (found - expected).float().norm() <= ERROR[dtype] * expected.float().norm()


def test_products_of_no_pairs() -> None:
    with torch.inference_mode():
        assert products(torch.randn(0, 7, 128), torch.randn(0, 64, 128)).shape == (0, 7, 64)


def test_a_layer_is_torchs_own_until_it_is_told() -> None:
    torch.manual_seed(0)
    layer, x = Linear(128, 64), torch.randn(5, 128)
    with torch.inference_mode():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
        use_onednn(layer)
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    layer(x).sum().backward()  # training goes on as before
    assert layer.weight.grad is not None


def test_where_there_is_no_onednn_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_module, "_has_onednn", lambda: False)
    x, weight = torch.randn(5, 128), torch.randn(64, 128)
    with torch.inference_mode():
        assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_widths_that_are_no_whole_blocks_stay_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", None)
    with torch.inference_mode():
        assert linear(torch.randn(5, 96), torch.randn(64, 96)).shape == (5, 64)
        assert products(torch.randn(2, 5, 64), torch.randn(2, 48, 64)).shape == (2, 5, 48)


def test_this_torch_has_it() -> None:
    """The operator has no public name: a torch without it must be noticed, for models would be slower in silence."""
    if linear_module.platform.machine() in ("x86_64", "AMD64"):
        assert linear_module._has_onednn()


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("shape", [(PART_TOKENS,), (1, 40, 64), (2, 1025)])
def test_an_mlp_of_many_tokens_in_parts(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = MlpBlock(64, 256, torch.nn.GELU()).to(dtype).requires_grad_(False)
    fast = copy.deepcopy(plain)
    use_onednn(fast)
    x = torch.randn(*shape, 64).to(dtype)
    with torch.inference_mode():
        found, expected = fast(x), plain(x)
    assert (found.shape, found.dtype) == (x.shape, dtype)
    assert (found - expected).float().norm() <= ERROR[dtype] * expected.float().norm()
