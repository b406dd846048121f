import pytest
import timm
import torch
from timm.layers.grn import GlobalResponseNorm

from kdoct_utils.learn.layers import QuickResponseNorm, use_quick_layers
from kdoct_utils.learn.memory import keep_freed_memory


def pair(channels: int, channels_last: bool) -> tuple[GlobalResponseNorm, QuickResponseNorm]:
    theirs = GlobalResponseNorm(channels, channels_last=channels_last)
    torch.manual_seed(0)
    torch.nn.init.normal_(theirs.weight), torch.nn.init.normal_(theirs.bias)
    ours = QuickResponseNorm(channels, channels_last=channels_last)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_quick_norm_says_what_timms_says(channels_last):
    theirs, ours = pair(6, channels_last)
    x = torch.randn((5, 7, 8, 6) if channels_last else (5, 6, 7, 8), dtype=torch.float64)
    torch.testing.assert_close(ours(x.float()), theirs(x.float()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.double()(x), theirs.double()(x), rtol=1e-12, atol=1e-12)


def test_its_gradients_are_timms():
    theirs, ours = pair(6, False)
    x = torch.randn(5, 6, 7, 8)
    found = []
    for layer in (theirs, ours):
        seen = x.clone().requires_grad_(True)
        layer(seen).pow(3).sum().backward()
        found.append((seen.grad, layer.weight.grad, layer.bias.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_a_black_map_has_a_gradient():
    _, ours = pair(3, False)
    x = torch.zeros(2, 3, 4, 4, requires_grad=True)
    ours(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_half_precision_stays_near():
    theirs, ours = pair(8, False)
    x = torch.randn(4, 8, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = ours(x.bfloat16())
    assert mixed.dtype == theirs(x.bfloat16()).dtype
    expected, bound = theirs(x), {"rtol": 0.05, "atol": 0.1}
    torch.testing.assert_close(mixed.float(), expected, **bound)
    torch.testing.assert_close(ours.bfloat16()(x.bfloat16()).float(), expected, **bound)
    torch.testing.assert_close(ours.half()(x.half()).float(), expected, **bound)


def test_large_numbers_in_half_precision_do_not_overflow():
    _, ours = pair(2, False)
    assert torch.isfinite(ours.half()(torch.full((1, 2, 4, 4), 1000.0, dtype=torch.float16))).all()


def test_a_whole_network_keeps_its_parameters_and_its_answers():
    torch.manual_seed(0)
    model = timm.create_model("convnextv2_atto", num_classes=3, in_chans=1).eval()
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        before, parameters = model(x), list(model.parameters())
        names = list(model.state_dict())
        use_quick_layers(model)
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == names
    assert sum(isinstance(module, QuickResponseNorm) for module in model.modules()) == 12  # one a block


def test_memory_is_kept_or_left_alone():
    assert keep_freed_memory() in (True, False)
    assert keep_freed_memory() is keep_freed_memory()  # the second call does nothing
