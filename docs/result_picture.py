"""Make docs/images/result.jpg: python docs/result_picture.py MODEL line5

Defective magnetic tiles among those that the model's own cut fails, one a kind of defect (at most three): the photo with the
median Dice.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import unias
from unias.data.layouts import scan
from unias.data.masks import load_mask, resize_mask
from unias.evaluation.metrics import dice_per_sample
from unias.inference.pictures import case_strip

PRODUCT, MOST = "magnetic_tile", 3
SIDE = 190


def main(model_folder: str, data: str) -> None:
    model = unias.load(model_folder, device="cpu")
    dataset = scan(data)
    strips = []
    for kind in sorted({sample.defect for sample in dataset.test(PRODUCT) if not sample.is_good}):
        found = []
        chosen = [sample for sample in dataset.test(PRODUCT) if sample.defect == kind]
        for sample, result in zip(chosen, model.predict([s.path for s in chosen], image=True), strict=True):
            if result.ok:
                continue
            mask = resize_mask(load_mask(sample.mask, result.size), result.model_map.shape)
            dice = float(dice_per_sample(mask[None], result.model_mask[None])[0])
            found.append(
                (dice, case_strip(result.image, result.model_map, mask, result.model_mask, (0, 2 * result.cut), SIDE))
            )
        if found:
            found.sort(key=lambda pair: pair[0])
            strips.append(found[len(found) // 2][1])
    strips = strips[:MOST]
    if not strips:
        raise SystemExit(f"the model fails no defective {PRODUCT}: there is nothing to show.")
    gap = np.full((6, strips[0].shape[1], 3), 255, dtype=np.uint8)
    rows = [part for strip in strips for part in (strip, gap)][:-1]
    target = Path(__file__).parent / "images" / "result.jpg"
    target.parent.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(target, quality=88)
    print(target)


if __name__ == "__main__":
    main(*sys.argv[1:3])
