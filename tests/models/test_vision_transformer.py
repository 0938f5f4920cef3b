"""Vision transformers: published sizes and names, arguments, and attention that is PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from qkd_deploy.errors import UserError
from qkd_deploy.models import create_model
from qkd_deploy.models.vision_transformer import Attention, VisionTransformer

SMALL = {"image_size": 32, "patch_size": 8, "depth": 2}


@pytest.mark.parametrize("name", ["vit_tiny", "deit_tiny"])
def test_they_have_the_published_size(name: str) -> None:
    model = create_model(name, 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == 5_717_416


def test_names_of_parameters_are_the_public_ones() -> None:
    shapes = {key: tuple(value.shape) for key, value in create_model("vit_tiny", 1000).state_dict().items()}
    assert len(shapes) == 152
    assert shapes["pos_embed"] == (1, 197, 192)
    assert shapes["patch_embed.proj.weight"] == (192, 3, 16, 16)
    assert shapes["blocks.11.attn.qkv.weight"] == (576, 192)
    assert shapes["blocks.0.mlp.fc1.bias"] == (768,)
    assert shapes["head.weight"] == (1000, 192)


def test_arguments_give_small_versions() -> None:
    model = create_model("vit_tiny", 7, 1, SMALL).eval()
    assert isinstance(model, VisionTransformer)
    assert len(model.blocks) == 2
    with torch.no_grad():
        logits = model(torch.randn(2, 1, 32, 32))
    assert logits.shape == (2, 7)
    assert not torch.equal(logits[0], logits[1])


def test_attention_is_scaled_dot_product_attention() -> None:
    torch.manual_seed(0)
    attention = Attention(24, 3)
    x = torch.randn(2, 5, 24)
    query, key, value = attention.qkv(x).reshape(2, 5, 3, 3, 8).permute(2, 0, 3, 1, 4)
    expected = attention.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(2, 5, 24))
    torch.testing.assert_close(attention(x), expected)


def test_tokens_know_their_place_and_the_head_reads_the_class_token() -> None:
    torch.manual_seed(0)
    model = create_model("vit_tiny", 4, 3, SMALL).eval()
    assert isinstance(model, VisionTransformer)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = model(image)
        swapped = model(image.flip(3))
        assert not torch.allclose(before, swapped, atol=1e-6)
        model.pos_embed.zero_()
        tokens = model.patch_embed(image)
        model.patch_embed.forward = lambda _: tokens  # type: ignore[method-assign]
        plain = model(image)
        model.patch_embed.forward = lambda _: tokens.flip(1)  # type: ignore[method-assign]
        torch.testing.assert_close(model(image), plain)


def test_initial_weights_have_the_published_spread() -> None:
    torch.manual_seed(0)
    state = create_model("vit_tiny", 1000).state_dict()
    for key in ("blocks.0.attn.qkv.weight", "pos_embed", "head.weight"):
        assert state[key].std().item() == pytest.approx(0.02, rel=0.02)
    assert not state["blocks.0.attn.qkv.bias"].any()


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(UserError, match="patches of 16 pixels do not tile an image of 40; change patch_size"):
        create_model("vit_tiny", 10, 3, {"image_size": 40})
    with pytest.raises(UserError, match="5 heads cannot share 192 channels"):
        create_model("vit_tiny", 10, 3, {"heads": 5})
