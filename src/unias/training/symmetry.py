"""Which ways of laying a photo down a product allows, found without names and without labels (recipe ``auto``).

A product allows a turn where its turned photos lie as near to its other photos as these lie to one another: then the turned
photo could have been one of them. Printed boards that are all different allow all eight, an even surface lit from one side its
flips, a part that always lies the same way none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unias.backbones.timm_backbone import FrozenBackbone
from unias.config import Config
from unias.data.decode import load_input
from unias.data.layouts import Sample
from unias.data.split import spaced
from unias.data.transforms import TURNS, closed, turned
from unias.progress import Progress
from unias.training.features import BATCH

QUERIES, REFERENCES, NEAREST = 48, 64, 3  # photos that are turned, photos they are compared with, neighbours averaged
SIZE = 128  # pixels: the same ratios as 224, in a third of the time
FEWEST = 8  # photos of a product; with fewer nothing is said
TOLERANCE = (
    1.05  # a turned photo may lie so much further off; 1.15 took in screws and tiles, and screws fell (docs/LOG.md)
)
GRIDS = {4: 7, 3: 7, 2: 14}  # levels that are compared, and the grid they are pooled to


@torch.inference_mode()
def allowed_turns(
    samples: Sequence[Sample], backbone: FrozenBackbone, config: Config, device: torch.device, progress: Progress
) -> dict[str, tuple[int, ...]]:
    """{product: the turns it allows, 0 among them} from training photos."""
    products = sorted({sample.product for sample in samples})
    allowed: dict[str, tuple[int, ...]] = {}
    with progress.stage("symmetry of products", len(products)) as advance:
        for product in products:
            own = [sample for sample in samples if sample.product == product]
            allowed[product] = (0,)
            if len(own) >= FEWEST:
                distances = turned_distances(
                    [own[place] for place in spaced(len(own), REFERENCES)], backbone, config, device
                )
                allowed[product] = largest_group(distances.tolist())
            advance(1)
    return allowed


def largest_group(distances: Sequence[float]) -> tuple[int, ...]:
    """Turns within the tolerance, nearest first, as long as all that come of them together are within it too."""
    near = {turn for turn, distance in enumerate(distances) if distance <= TOLERANCE * distances[0]} | {0}
    group = frozenset({0})
    for turn in sorted(near, key=lambda turn: distances[turn]):
        if (wider := closed({*group, turn})) <= near:
            group = wider
    return tuple(sorted(group))


def turned_distances(
    samples: Sequence[Sample], backbone: FrozenBackbone, config: Config, device: torch.device
) -> Tensor:
    """(8,): how far photos in each turn lie from their nearest other photos, mean over some of the photos."""
    images = [load_input(sample.path, SIZE, config.bits)[0] for sample in samples]
    maps = _maps(images, backbone, device)
    centre = {k: v.mean(dim=(0, 2, 3), keepdim=True) for k, v in maps.items()}
    spread = {k: v.std(dim=(0, 2, 3), keepdim=True) + 1e-6 for k, v in maps.items()}

    def flat(found: dict[int, Tensor]) -> Tensor:
        parts = [((v - centre[k]) / spread[k]).flatten(1) / v[0].numel() ** 0.5 for k, v in found.items()]
        return torch.cat(parts, dim=1)

    references = flat(maps)
    places = spaced(len(images), QUERIES).tolist()
    found = []
    for turn in range(TURNS):
        queries = (
            flat(_maps([turned(images[place], turn) for place in places], backbone, device))
            if turn
            else references[places]
        )
        distances = torch.stack([(query - references).square().sum(dim=1).sqrt() for query in queries])
        distances[torch.arange(len(places)), torch.tensor(places)] = torch.inf  # not the photo itself
        found.append(distances.topk(min(NEAREST, len(images) - 1), largest=False).values.mean())
    return torch.stack(found).cpu()


def _maps(images: Sequence[np.ndarray], backbone: FrozenBackbone, device: torch.device) -> dict[int, Tensor]:
    kept: dict[int, list[Tensor]] = {level: [] for level in GRIDS}
    for start in range(0, len(images), BATCH):
        features = backbone(torch.from_numpy(np.stack(images[start : start + BATCH])).to(device))
        for level, grid in GRIDS.items():
            kept[level].append(F.adaptive_avg_pool2d(features[level].float(), grid))
    return {level: torch.cat(parts) for level, parts in kept.items()}
