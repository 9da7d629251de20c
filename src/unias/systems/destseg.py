"""DeSTSeg as a system: its two stages, losses, maps and score around ``nets/destseg.py`` (six-systems section 3).

First fifth of the steps: the student learns to give the teacher's features of the clean photo where it sees the corrupted
one. Then the segmentation net learns from where they differ. The published rates belong to batches of 32; the student's loss
is a sum over the batch, so that its rate is scaled with the batch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unias.backbones.timm_backbone import FrozenBackbone, network_at
from unias.config import BackboneConfig, Config
from unias.errors import UsageError
from unias.systems.base import (
    SCHEDULES,
    Found,
    Parts,
    Seen,
    Shrink,
    System,
    at_least,
    check_side,
    config_of,
    fallen,
    one_of,
    shrunk,
)
from unias.systems.corruption import AlwaysCorrupted, Textures
from unias.systems.nets.destseg import DeSTSeg, distances, focal_loss, largest_mean, resized, resized_mask, student_loss
from unias.training.batches import Batch

PUBLISHED_BATCH = 32
STUDENT_STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class DeSTSegSettings:
    """Attributes:
    width: of the segmentation net. first: share of the steps that the student has.
    side: pixels that photos are resized to inside; maps come back at the model's size. 0 = the model's size.
    blocks_rate, head_rate: of the segmentation net's two parts; the student's is ``train.learning_rate``, for batches of 32.
    textures: folder of photos that are blended in (DTD); "" = procedural ones and scikit-image's.
    """

    width: int = 256
    first: float = 0.2
    side: int = 0
    blocks_rate: float = 0.1
    head_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "constant"  # within the segmentation net's stage
    textures: str = ""

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, SCHEDULES)
        at_least(1, width=self.width)
        check_side(self.side)
        if not 0 < self.first < 1:
            raise UsageError(f"first: {self.first} must lie between 0 and 1.")


class Teacher(nn.Module):
    """The frozen backbone's levels at strides 4, 8, 16; borrowed, so that it is not kept twice."""

    def __init__(self, backbone: FrozenBackbone) -> None:
        super().__init__()
        self.borrowed = (backbone,)

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.borrowed[0].network(images)[1:4])


class DeSTSegSystem(System):
    """Zhang et al., CVPR 2023."""

    name: ClassVar[str] = "destseg"
    title: ClassVar[str] = "DeSTSeg"
    source: ClassVar[str] = "Zhang et al., CVPR 2023"
    reads: ClassVar[str] = "pixels"
    least_steps: ClassVar[int] = 100  # the first 20 are the student's in any case (systems/task.py)
    Settings: ClassVar[type] = DeSTSegSettings

    def __init__(self, settings: DeSTSegSettings, parts: Parts) -> None:
        super().__init__(settings, parts)
        encoder, channels = network_at(parts.backbone_name, STUDENT_STRIDES)
        expected = [parts.channels[level] for level in (2, 3, 4)]
        assert channels[:3] == expected
        self.net = DeSTSeg(Teacher(parts.backbone), encoder, channels, width=settings.width)
        self.net.to(memory_format=torch.channels_last)
        self.second = False

    @classmethod
    def presets(cls) -> dict[str, Config]:
        wishes = {"width": 128, "schedule": "cosine", "side": 160}
        small = config_of(cls.name, "small", wishes, batch_size=16, learning_rate=0.4, recipe="none")
        paper = config_of(
            cls.name,
            "paper",
            {},
            backbone=BackboneConfig(name="resnet18.tv_in1k"),
            size=256,
            batch_size=32,
            learning_rate=0.4,
            steps=5000,
            cache=False,
            precision="32-true",
        )
        return {"small": small, "paper": paper}

    def corruption(self) -> AlwaysCorrupted:
        train = self.parts.train
        return AlwaysCorrupted(Textures(self.settings.textures or None, self.parts.size, train.seed))

    def optimizers(self, device: torch.device) -> list[torch.optim.Optimizer]:
        """One, of three groups; a part without gradients stays as it is."""
        s, net = self.settings, self.net
        head = [
            *net.segmentation.aspp.parameters(),
            *net.segmentation.conv.parameters(),
            *net.segmentation.logit.parameters(),
        ]
        student = self.parts.train.learning_rate * self.parts.train.batch_size / PUBLISHED_BATCH
        groups = [
            {"params": list(net.student.parameters()), "lr": student},
            {"params": list(net.segmentation.res.parameters()), "lr": s.blocks_rate},
            {"params": head, "lr": s.head_rate},
        ]
        return [torch.optim.SGD(groups, lr=student, momentum=s.momentum, weight_decay=s.weight_decay)]

    def share(self, done: float) -> float:
        first = self.settings.first
        return 1.0 if done < first else fallen(self.settings.schedule, (done - first) / (1 - first))

    def prepare(self, done: float) -> None:
        self._stage(done >= self.settings.first)

    def _stage(self, second: bool) -> None:
        self.second = second
        self.net.student.train(not second)
        self.net.segmentation.train(second)

    def forward(self, batch: Batch) -> tuple[list[Tensor], list[Tensor], Tensor | None]:
        """Levels of teacher and student and no logit, or no levels and the logit."""
        assert batch.images is not None
        assert batch.clean is not None
        images = self._normal(batch.images)
        if not self.second:
            return self.net.taught(self._normal(batch.clean)), self.net.student(images), None
        with torch.no_grad():
            student = self.net.student(images)
        return [], [], self.net.segment(self.net.taught(images), student)[1]

    def loss(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        teacher, student, logit = output
        if logit is None:
            return {"cosine": student_loss(distances([t.float() for t in teacher], [s.float() for s in student]))}
        logit = logit.float()
        assert batch.mask is not None
        target, segmentation = resized_mask(batch.mask, logit.shape[-2:]), logit.sigmoid()
        return {"focal": focal_loss(segmentation, target), "l1": (segmentation - target).abs().mean()}

    def times_first(self, batch: Batch) -> float:
        """Both stages are timed on one batch; what batch norms saw of it is forgotten."""
        kept = {name: value.clone() for name, value in self.net.state_dict().items()}
        seconds: dict[bool, float] = {}
        for second in (False, True, False, True):  # the first of each warms up
            self._stage(second)
            began = time.monotonic()
            with torch.autocast(batch.product.device.type, dtype=torch.bfloat16, enabled=self.parts.half):
                output = self.forward(batch)
            torch.stack(list(self.loss(output, batch).values())).sum().backward()  # type: ignore[no-untyped-call]
            seconds[second] = time.monotonic() - began
        self.net.zero_grad(set_to_none=True)
        self.net.load_state_dict(kept)
        self._stage(False)
        first = float(self.settings.first)
        return first + (1 - first) * seconds[True] / seconds[False]

    def graph_form(self) -> None:
        super().graph_form()
        size, side = self.parts.size, self.settings.side
        self.shrink = Shrink(size, side) if side and side != size else nn.Identity()

    def find(self, seen: Seen) -> Found:
        images = self._normal(seen.images)
        _, logit = self.net.segment(self.net.taught(images), self.net.student(images))
        size = self.parts.size
        maps = resized(logit.float().sigmoid(), (size, size))[:, 0]
        return Found(maps, largest_mean(maps))

    def _normal(self, images: Tensor) -> Tensor:
        backbone = self.parts.backbone
        images = self.shrink(images) if self.in_graph else shrunk(images, self.settings.side)
        return ((images - backbone.mean) / backbone.std).contiguous(memory_format=torch.channels_last)
