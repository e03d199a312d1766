"""The U-Net of the VoxelOpt authors' public checkpoint."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReleasedUNet(nn.Module):
    """3-D U-Net of the Models Genesis family (Zhou et al., MICCAI 2019) with 8 maps.

    Its parameters have the names and shapes of the public VoxelOpt checkpoint ``unet.pth``, whose
    images are CT windowed from [-500, 800] HU to [0, 1], at 4 mm. Sides must be multiples of 8,
    and above 8: ``FeatureEncoder(ReleasedUNet(), weights="unet.pth", divisor=8)``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone: _Backbone = _Backbone()
        self.precls_conv: nn.Sequential = nn.Sequential(
            nn.GroupNorm(16, 64), nn.ReLU(), nn.Conv3d(64, 8, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map ``(B, 1, *spatial)`` to ``(B, 8, *spatial)``, before any softmax."""
        return self.precls_conv(self.backbone(image))


class _Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down_tr64: _Down = _Down(1, 32, 64)
        self.down_tr128: _Down = _Down(64, 64, 128)
        self.down_tr256: _Down = _Down(128, 128, 256)
        self.down_tr512: _Down = _Down(256, 256, 512)
        self.up_tr256: _Up = _Up(512, 256)
        self.up_tr128: _Up = _Up(256, 128)
        self.up_tr64: _Up = _Up(128, 64)

    def forward(self, image: Tensor) -> Tensor:
        skip64 = self.down_tr64(image)
        skip128 = self.down_tr128(F.max_pool3d(skip64, 2))
        skip256 = self.down_tr256(F.max_pool3d(skip128, 2))
        x = self.down_tr512(F.max_pool3d(skip256, 2))
        x = self.up_tr256(x, skip256)
        x = self.up_tr128(x, skip128)
        return self.up_tr64(x, skip64)


class _Down(nn.Module):
    def __init__(self, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.ops: nn.Sequential = nn.Sequential(
            _Convolution(in_channels, mid_channels), _Convolution(mid_channels, out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.ops(x)


class _Up(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up_conv: nn.ConvTranspose3d = nn.ConvTranspose3d(
            in_channels, in_channels, kernel_size=2, stride=2
        )
        self.ops: nn.Sequential = nn.Sequential(
            # The skip has as many channels as come out.
            _Convolution(in_channels + out_channels, out_channels),
            _Convolution(out_channels, out_channels),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.ops(torch.cat([self.up_conv(x), skip], dim=1))


class _Convolution(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1)
        self.bn1 = _CurrentBatchNorm3d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)), inplace=True)


class _CurrentBatchNorm3d(nn.BatchNorm3d):
    """Batch norm with the statistics of the current input, in evaluation too.

    The running statistics are there for the checkpoint's keys alone; nothing reads or changes them.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(input, None, None, self.weight, self.bias, training=True, eps=self.eps)
