"""How each of the six is trained: optimisers, rates, schedules, and what goes into which net (six-systems sections 1 to 6)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tiny_systems import TINY, needs_anomalib

from unias.backbones.timm_backbone import build_backbone
from unias.config import BackboneConfig
from unias.systems.base import Parts, System
from unias.systems.registry import config_of, find
from unias.systems.task import SystemTask
from unias.training.batches import Batch

CPU = torch.device("cpu")
SIZE = 128
ADAM = {"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 0.0}
PUBLISHED: dict[str, tuple[type[torch.optim.Optimizer], list[dict[str, Any]]]] = {
    "uniad": (torch.optim.AdamW, [{"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 1e-4}]),
    "hvq": (torch.optim.AdamW, [{"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 1e-4}]),
    "rd4ad": (torch.optim.Adam, [{"lr": 5e-3, "betas": (0.5, 0.999), "weight_decay": 0.0}]),
    "draem": (torch.optim.Adam, [ADAM]),
    "destseg": (
        torch.optim.SGD,
        [{"lr": rate, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False} for rate in (0.4, 0.1, 0.01)],
    ),
}
SHARES = {  # of the rate, at these shares of the steps
    "uniad": {0.0: 1.0, 0.79: 1.0, 0.81: 0.1, 0.99: 0.1},
    "hvq": {0.0: 1.0, 0.79: 1.0, 0.81: 0.1, 0.99: 0.1},
    "rd4ad": {0.0: 1.0, 0.5: 1.0, 0.99: 1.0},
    "draem": {0.0: 1.0, 0.79: 1.0, 0.81: 0.2, 0.91: 0.04},
    "destseg": {0.0: 1.0, 0.5: 1.0, 0.99: 1.0},
}
SYSTEMS = [pytest.param(name, marks=needs_anomalib) if name == "draem" else name for name in PUBLISHED]


def made(name: str, **changes: Any) -> System:
    """A tiny one under the settings of its published training."""
    config = config_of(name, "paper")
    wishes = {**TINY[name], "mirror": "", **changes} if name == "rd4ad" else {**TINY[name], **changes}
    own = dataclasses.replace(config, settings={**config.settings, **wishes})
    kind = find(name)
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(name="tf_efficientnet_lite0", weights="random"))
    parts = Parts(backbone, ("nut", "bolt"), SIZE, "tf_efficientnet_lite0", config.train)
    return kind(kind.settings_of(own), parts)


@pytest.mark.parametrize("name", SYSTEMS)
def test_published_optimiser_and_rates(name: str) -> None:
    kind, groups = PUBLISHED[name]
    (optimizer,) = SystemTask(made(name)).optimizers(CPU)
    assert type(optimizer) is kind
    found = [{key: group[key] for key in wish} for group, wish in zip(optimizer.param_groups, groups, strict=True)]
    assert found == groups
    assert all(group["rate"] == group["lr"] for group in optimizer.param_groups)


@pytest.mark.parametrize("name", SYSTEMS)
def test_published_schedule(name: str) -> None:
    """Of the steps that are made, however many they are."""
    task = SystemTask(made(name, **({"first": 0.2} if name == "destseg" else {})))
    for total in (1000, 454_000):
        assert {done: task.share(int(done * total), total, 10) for done in SHARES[name]} == SHARES[name]


def test_the_rate_of_destsegs_student_goes_with_the_batch() -> None:
    """Its loss is a sum over the batch; the published rate belongs to 32 photos."""
    system = made("destseg")
    system.parts = dataclasses.replace(system.parts, train=dataclasses.replace(system.parts.train, batch_size=16))
    (optimizer,) = system.optimizers(CPU)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1, 0.01]


@pytest.mark.parametrize(("name", "norm"), [("uniad", 0.1), ("hvq", 0.1), ("rd4ad", None), ("destseg", None)])
def test_gradients_are_clipped_as_published(name: str, norm: float | None) -> None:
    assert SystemTask(made(name)).clip == norm


@needs_anomalib
def test_draems_second_net_sees_the_reconstruction_first() -> None:
    system: Any = made("draem")
    seen: list[torch.Tensor] = []
    system.reconstructive.register_forward_hook(lambda _m, _i, out: seen.append(out))
    system.discriminative.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        system._both(images)
    reconstruction, given = seen
    assert torch.equal(given, torch.cat([reconstruction, images], dim=1))


def batch() -> Batch:
    images, clean = torch.rand(2, 3, SIZE, SIZE), torch.rand(2, 3, SIZE, SIZE)
    mask = torch.zeros(2, 1, SIZE, SIZE)
    mask[..., :40, :40] = 1
    return Batch(["a", "b"], torch.tensor([0, 1]), {}, images, clean, mask)


@pytest.mark.parametrize("second", [False, True])
def test_what_destsegs_teacher_sees(second: bool) -> None:
    """The clean photo while the student learns from the spoiled one; then both the spoiled one. One part learns at a time."""
    system: Any = made("destseg")
    system.prepare(0.9 if second else 0.0)
    given, seen = batch(), {}
    system.net.student.register_forward_pre_hook(lambda _m, inputs: seen.update(student=inputs[0].clone()))
    taught = system.net.taught
    system.net.taught = lambda images: (seen.update(teacher=images.clone()), taught(images))[1]
    terms = system.loss(system.forward(given), given)
    torch.stack(list(terms.values())).sum().backward()
    assert set(terms) == ({"focal", "l1"} if second else {"cosine"})
    assert torch.equal(seen["student"], system._normal(given.images))
    assert torch.equal(seen["teacher"], system._normal(given.images if second else given.clean))
    learns = {
        part: any(p.grad is not None for p in getattr(system.net, part).parameters())
        for part in ("student", "segmentation")
    }
    assert learns == {"student": not second, "segmentation": second}
    assert (system.net.student.training, system.net.segmentation.training) == (not second, second)


def test_what_tables_say_of_patchcores_bank() -> None:
    """A ratio beside a limit is no ratio: the limits are told together."""
    kind = find("patchcore")
    told = kind.told(kind.Settings(ratio=0.1, most=500, pool=4000))
    assert told == {
        "embedding": "mean",
        "sigma": 4.0,
        "bank": "at most 500 patches and a share of 0.1, chosen from 4000 a product",
    }
