"""DeSTSeg (Zhang et al., CVPR 2023): a student that cleans corrupted photos, and a net that segments where it differs.

    corrupted photo -> teacher (frozen), student encoder -> decoder -> three levels each -> products -> segmentation

Legend: N photos, s x s the photo, levels 1, 2, 3 at strides 4, 8, 16 with C_1, C_2, C_3 channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1

DILATIONS = (6, 12, 18)
LARGEST = 100  # pixels whose mean is the score
GAMMA = 4.0


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, align_corners=False."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def blocks(channels: int, width: int) -> nn.Sequential:
    """Two basic residual blocks; the first changes the width."""
    change = nn.Sequential(conv1x1(channels, width), nn.BatchNorm2d(width)) if channels != width else None
    return nn.Sequential(BasicBlock(channels, width, 1, change), BasicBlock(width, width))


def normalized(x: Tensor) -> Tensor:
    """Over channels, to length 1."""
    out: Tensor = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-12)
    return out


class Student(nn.Module):
    """An encoder of its own and a decoder without skips: (N, 3, s, s) -> levels 1, 2, 3.

    Args:
        encoder: gives maps at strides 4, 8, 16, 32.
        channels: theirs.
    """

    def __init__(self, encoder: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        first, second, third, fourth = channels
        self.encoder = encoder
        self.decoder_layer4 = blocks(fourth, fourth)
        self.decoder_layer3 = blocks(fourth, third)
        self.decoder_layer2 = blocks(third, second)
        self.decoder_layer1 = blocks(second, first)
        kaiming(self.decoder_layer4, self.decoder_layer3, self.decoder_layer2, self.decoder_layer1)

    def forward(self, images: Tensor) -> list[Tensor]:
        stages = self.encoder(images)
        x = self.decoder_layer4(stages[3])
        third = self.decoder_layer3(resized(x, stages[2].shape[-2:]))
        second = self.decoder_layer2(resized(third, stages[1].shape[-2:]))
        return [self.decoder_layer1(resized(second, stages[0].shape[-2:])), second, third]


class NormedConv(nn.Module):
    """Convolution without bias, BatchNorm, ReLU."""

    def __init__(self, channels: int, width: int, size: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, size, padding=dilation * (size // 2), dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class ASPP(nn.Module):
    """Global average and three dilated convolutions side by side; no plain 1x1 branch."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.pooled = NormedConv(channels, width, 1)
        self.dilated = nn.ModuleList(NormedConv(channels, width, 3, dilation) for dilation in DILATIONS)
        self.fusion = NormedConv((1 + len(DILATIONS)) * width, width, 3)

    def branches(self, x: Tensor) -> list[Tensor]:
        """The average's is (N, width, 1, 1)."""
        return [self.pooled(F.adaptive_avg_pool2d(x, 1)), *(branch(x) for branch in self.dilated)]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fusion(torch.cat([resized(branch, x.shape[-2:]) for branch in self.branches(x)], dim=1))
        return out


class Segmentation(nn.Module):
    """(N, C_1 + C_2 + C_3, s/4, s/4) -> logits (N, 1, s/4, s/4)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.res = blocks(channels, width)
        self.aspp = ASPP(width, width)
        self.conv = NormedConv(width, width, 3)
        self.logit = nn.Conv2d(width, 1, 1)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.logit(self.conv(self.aspp(self.res(x))))
        return out


class DeSTSegOutput(NamedTuple):
    """teacher, student: the raw levels; apart: 1 - cosine of each level, (N, 1, s_k, s_k); logit (N, 1, s/4, s/4)."""

    teacher: list[Tensor]
    student: list[Tensor]
    apart: list[Tensor]
    products: Tensor
    logit: Tensor

    def map(self, size: int) -> Tensor:
        """(N, size, size) in [0, 1], higher is more anomalous."""
        return resized(self.logit.sigmoid(), (size, size))[:, 0]

    def by_product(self) -> Tensor:
        """(N, s/4, s/4): the three levels' 1 - cosine multiplied, what the student alone says."""
        side = self.apart[0].shape[-2:]
        product = self.apart[0]
        for level in self.apart[1:]:
            product = product * resized(level, side)
        return product[:, 0]


class DeSTSeg(nn.Module):
    """The three nets. Published: ResNet-18 as teacher and student, segmentation width 256.

    Args:
        teacher: frozen; gives maps at strides 4, 8, 16.
        student_encoder: the same net from random weights, with stride 32 as well.
        channels: at strides 4, 8, 16, 32.
    """

    def __init__(
        self, teacher: nn.Module, student_encoder: nn.Module, channels: Sequence[int], *, width: int = 256
    ) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False).eval()
        self.student = Student(student_encoder, channels)
        self.segmentation = Segmentation(sum(channels[:3]), width)

    def train(self, mode: bool = True) -> DeSTSeg:
        """The teacher stays in eval mode always."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, images: Tensor, clean: Tensor | None = None) -> DeSTSegOutput:
        """images (N, 3, s, s), normalised. In training ``clean`` are the photos before they were corrupted: the student's
        levels are compared with the teacher's of those, the segmentation reads the teacher's of ``images`` all the same."""
        teacher, student = self.taught(images), self.student(images)
        apart = distances(teacher if clean is None else self.taught(clean), student)
        seen, logit = self.segment(teacher, student)
        return DeSTSegOutput(teacher, student, apart, seen, logit)

    @torch.no_grad()
    def taught(self, images: Tensor) -> list[Tensor]:
        """The teacher's levels."""
        return [level.detach() for level in self.teacher(images)]

    def segment(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Levels 1, 2, 3 of both, of the same photos -> their products on one grid, logits (N, 1, s/4, s/4)."""
        side = student[0].shape[-2:]
        products = [-normalized(level) * normalized(own) for level, own in zip(teacher, student, strict=True)]
        seen = torch.cat([resized(product, side) for product in products], dim=1)
        return seen, self.segmentation(seen)


def distances(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
    """Per level 1 - cosine, (N, 1, s_k, s_k)."""
    return [
        1 - (normalized(level) * normalized(own)).sum(dim=1, keepdim=True)
        for level, own in zip(teacher, student, strict=True)
    ]


def student_loss(apart: Sequence[Tensor]) -> Tensor:
    """Per level the sum over the batch of the mean over places, added: the published rate belongs to batches of 32."""
    terms = [level.mean(dim=(1, 2, 3)).sum() for level in apart]
    return torch.stack(terms).sum()


def focal_loss(segmentation: Tensor, mask: Tensor, gamma: float = GAMMA) -> Tensor:
    """segmentation, mask (N, 1, h, w) in [0, 1]: -(1 - p)^gamma log p of the truth's probability p, mean; no class weights."""
    likely = torch.where(mask > 0.5, segmentation, 1 - segmentation).clamp_min(1e-12)
    return (-((1 - likely) ** gamma) * likely.log()).mean()


def resized_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    """(N, 1, s, s) -> (N, 1, h, w) of 0 and 1: bilinear, cut at one half."""
    return (resized(mask, size) >= 0.5).to(mask.dtype)


def largest_mean(maps: Tensor, count: int = LARGEST) -> Tensor:
    """(N, S, S) -> (N,): mean of the largest pixels, all where there are fewer."""
    flat = maps.flatten(1)
    return flat.topk(min(count, flat.shape[1]), dim=1).values.mean(dim=1)


def kaiming(*modules: nn.Module) -> None:
    """Kaiming normal, fan-out, for convolutions; BatchNorm as torch starts it."""
    for module in modules:
        for inner in module.modules():
            if isinstance(inner, nn.Conv2d):
                nn.init.kaiming_normal_(inner.weight, mode="fan_out", nonlinearity="relu")
