"""Vision transformers (Dosovitskiy et al., 2021; Touvron et al., 2021)."""

from __future__ import annotations

import torch
from torch import nn

from qkd_deploy.errors import UserError
from qkd_deploy.models.initialize import truncated_normal

_EPSILON = 1e-6
_MLP_RATIO = 4


class VisionTransformer(nn.Module):
    """Patches as tokens, a class token, pre-norm blocks; float [N, in_channels, S, S] -> logits [N, num_classes].

    The tiny form has 192 channels, 3 heads and 12 blocks. DeiT-Tiny is the same network, trained otherwise. Parameters
    have the names and shapes of timm's ``vit_tiny_patch16_224`` and ``deit_tiny_patch16_224``: their weights load.

    Args:
        num_classes: length of the logits.
        in_channels: channels of the images.
        image_size: height and width of the images in pixels, a multiple of ``patch_size``.
        patch_size: height and width of a patch in pixels.
        width: channels of the tokens.
        depth: blocks.
        heads: attention heads; they share ``width`` evenly.

    Raises:
        UserError: patches that do not tile the image, or heads that do not divide the width.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 224,
        patch_size: int = 16,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise UserError(f"patches of {patch_size} pixels do not tile an image of {image_size}; change patch_size")
        if width % heads:
            raise UserError(f"{heads} heads cannot share {width} channels evenly; change heads or width")
        self.patch_embed = PatchEmbedding(in_channels, width, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image_size // patch_size) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.head = nn.Linear(width, num_classes)
        truncated_normal(self)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits [N, num_classes] of float images [N, in_channels, S, S]."""
        tokens = self.patch_embed(x)
        tokens = torch.cat((self.cls_token.expand(tokens.shape[0], -1, -1), tokens), dim=1)
        tokens = self.norm(self.blocks(tokens + self.pos_embed))
        return self.head(tokens[:, 0])  # type: ignore[no-any-return]


class PatchEmbedding(nn.Module):
    """One token for every patch: [N, C, S, S] -> [N, (S / patch_size)^2, width]."""

    def __init__(self, in_channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the tokens of float images [N, C, S, S]."""
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then two linear layers on every token, each behind a layer norm and around a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPSILON)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=_EPSILON)
        self.mlp = Mlp(width, width * _MLP_RATIO)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to tokens [N, T, width]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head self-attention of plain products and a softmax, so that each becomes an operator of the file."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend among tokens [N, T, width]."""
        count, tokens, width = x.shape
        split = self.qkv(x).reshape(count, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        # the factor is a power of two for 64 channels per head: it changes a scale and no code
        weights = (query * self.scale @ key.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(count, tokens, width))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layers to tokens [N, T, width]."""
        return self.fc2(self.act(self.fc1(x)))  # type: ignore[no-any-return]
