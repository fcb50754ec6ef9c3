"""`jaxseg.models.UNet` in PyTorch, with its parameters."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import nn


class Block(nn.Sequential):
    """Two convolutions of side 3, each normalised and rectified."""

    def __init__(self, before: int, width: int):
        layers = []
        for channels in (before, width):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        super().__init__(*layers)

    def load(self, params: dict, stats: dict) -> None:
        for i in range(2):
            conv, norm = self[3 * i], self[3 * i + 1]
            conv.weight.data = tensor(params[f"conv{i}"]["kernel"].transpose(3, 2, 0, 1))
            norm.weight.data = tensor(params[f"norm{i}"]["scale"])
            norm.bias.data = tensor(params[f"norm{i}"]["bias"])
            norm.running_mean = tensor(stats[f"norm{i}"]["mean"])
            norm.running_var = tensor(stats[f"norm{i}"]["var"])


class UNet(nn.Module):
    """One of images of 3 channels.

    Its `up` has a bias for each channel; that of ours, for each pixel of a cell too, must be 0.
    """

    def __init__(self, widths: tuple[int, ...], params: dict, stats: dict):
        super().__init__()
        befores = (3, *widths[:-1])
        self.down = nn.ModuleList(map(Block, befores, widths))
        self.up, self.decode = nn.ModuleList(), nn.ModuleList()
        for level, (width, below) in enumerate(itertools.pairwise(widths)):
            # A dense layer and pixel shuffle is a transposed convolution.
            up = nn.ConvTranspose2d(below, width, 2, 2)
            kernel = params[f"up{level}"]["dense"]["kernel"].reshape(below, 2, 2, width)
            up.weight.data = tensor(kernel.transpose(0, 3, 1, 2))
            assert not params[f"up{level}"]["dense"]["bias"].any()
            nn.init.zeros_(up.bias)
            self.up.append(up)
            self.decode.append(Block(2 * width, width))
        kernel, bias = params["head"]["kernel"], params["head"]["bias"]
        self.head = nn.Conv2d(widths[0], len(bias), 1)
        self.head.weight.data = tensor(kernel.T[..., None, None])
        self.head.bias.data = tensor(bias)
        for name, blocks in (("down", self.down), ("decode", self.decode)):
            for level, block in enumerate(blocks):
                block.load(params[f"{name}{level}"], stats[f"{name}{level}"])

    def forward(self, x):
        skips = []
        for level, down in enumerate(self.down):
            x = down(nn.functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        x = skips.pop()
        for up, decode in reversed([*zip(self.up, self.decode, strict=True)]):
            x = decode(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


def tensor(array: np.ndarray) -> torch.Tensor:
    """A copy in the order of its axes, as PyTorch has its own; numpy leaves what is transposed."""
    return torch.from_numpy(np.array(array, order="C"))
