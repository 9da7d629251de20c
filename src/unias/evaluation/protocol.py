"""The evaluation protocol of spec section 10 (supplement A.2), class by class, and what goes into ``metrics.json``.

Every figure is a fraction in [0, 1] but for counts and thresholds; NaN where undefined (``null`` in the file).
``dsc`` is the paper's: its threshold is chosen on the test labels ("oracle"). ``dsc_cut`` uses no label at all.

Legend: N photos of one class, H x W the size of maps and masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unias.errors import DataError
from unias.evaluation.metrics import (
    NAN,
    Best,
    Overlap,
    PixelRanking,
    above,
    anomaly_ratio,
    at_least,
    aupro,
    best_dsc,
    dice_per_sample,
    empty_mask_dsc,
    overlaps,
)

PIXEL_KEYS = (
    "pap",
    "pixel_auroc",
    "pixel_f1max",
    "pixel_f1max_threshold",
    "aupro",
    "dsc",
    "dsc_threshold",
    "dsc_best",
    "dsc_best_threshold",
    "dsc_cut",
    "dsc_empty",
    "dsc_defective_oracle",
    "dsc_defective_best",
    "dsc_defective_single",
    "dsc_defective_cut",
    "iou",
    "ar",
)
IMAGE_KEYS = (
    "image_auroc",
    "image_ap",
    "image_f1max",
    "image_f1max_threshold",
    "false_alarm_rate",
    "miss_rate",
    "n_good",
    "n_defective",
)
KEYS = IMAGE_KEYS + PIXEL_KEYS
NOT_AVERAGED = tuple(key for key in KEYS if key.endswith("_threshold") or key.startswith("n_"))


def evaluate_class(
    maps: NDArray[np.float32],
    masks: NDArray[np.bool_] | None,
    is_defect: NDArray[np.bool_],
    image_scores: NDArray[np.float64],
    cut: float | None,
    valid: NDArray[np.bool_] | None = None,
    ranking: PixelRanking | None = None,
) -> dict[str, float]:
    """Every figure of one class, whose maps are in memory together (``streaming`` does without).

    Args:
        maps: (N, H, W), higher is more anomalous.
        masks: (N, H, W), True = anomalous; None where the product has image-level truth only.
        is_defect: (N,), the photo-level truth.
        image_scores: (N,), higher is more anomalous; a photo fails where its score is above ``cut``.
        cut: the product's label-free cut, on the scale of scores and maps; None without one.
        valid: (N, H, W), False where a photo smaller than the others was padded; there the map must be -inf and the mask
            empty. Such places count in no figure.
        ranking: ``PixelRanking(masks, maps)`` (of the valid places) where the caller has it already.

    Returns:
        One value for each of ``KEYS``:

        - ``pap``, ``pixel_auroc``, ``pixel_f1max``, ``aupro``: over all pixels of all photos.
        - ``dsc``: mean Dice of all photos at ``dsc_threshold``, which maximises precision + recall; ``iou`` there too.
        - ``dsc_best``: the same at the threshold that maximises it. Thresholds are inclusive (map >= threshold).
        - ``dsc_cut``: the mask is map > cut, drawn in failed photos only. Needs no label.
        - ``dsc_defective_oracle`` / ``_best`` / ``_cut``: those three over the defective photos alone; ``_single``: at the
          threshold that maximises that very mean, the strongest that one threshold can be there.
        - ``dsc_empty``: predicting nothing. ``ar``: share of anomalous pixels in the defective photos.
        - ``false_alarm_rate``: good photos failed by the cut; ``miss_rate``: defective photos passed by it.
        - NaN: pixel figures without masks; what needs a threshold from labels where no pixel is anomalous; what needs a
          cut where there is none; rates and image figures without the photos they count.
    """
    photos = len(is_defect)
    if len(maps) != photos or len(image_scores) != photos or (masks is not None and masks.shape != maps.shape):
        shape = None if masks is None else masks.shape
        raise DataError(
            f"one class: maps {maps.shape}, masks {shape}, {photos} labels and {len(image_scores)} scores do not fit. "
            "Give one map, mask, label and score a photo."
        )
    values = dict.fromkeys(KEYS, NAN)
    values.update(image_figures(is_defect, image_scores, None if cut is None else image_scores > cut))
    if masks is not None and photos:
        values.update(_pixel_figures(maps, masks, is_defect, valid, ranking))
        if cut is not None:
            dice = dice_per_sample(masks, above(maps, cut) & (image_scores > cut)[:, None, None])
            marked = is_defect & masks.any(axis=(1, 2))
            values["dsc_cut"], values["dsc_defective_cut"] = float(dice.mean()), mean_of(dice[marked])
    return values


def mean_metrics(classes: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The dataset's figures: for each key the mean over the classes where it is defined.

    Thresholds and counts have no mean and are left out. ``n_classes``: {key: how many classes its mean is of}.
    """
    means: dict[str, Any] = {}
    counted: dict[str, int] = {}
    for key in KEYS:
        if key in NOT_AVERAGED:
            continue
        defined = [values[key] for values in classes.values() if not np.isnan(values.get(key, NAN))]
        means[key], counted[key] = (float(np.mean(defined)) if defined else NAN), len(defined)
    return {**means, "n_classes": counted}


def metrics_document(
    classes: Mapping[str, Mapping[str, float]],
    size: str,
    info: Mapping[str, Any],
    subsets: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
) -> dict[str, Any]:
    """The content of ``metrics.json`` (write it with ``files.write_json``, which turns NaN into null).

    Args:
        classes: {class: figures of :func:`evaluate_class`}.
        size: the size of maps and masks in words, such as "224 x 224" or "original".
        info: what else is to be known: commit, config, seed, minutes, machine.
        subsets: {name of a part of the test photos: its classes}, such as "dev" and "final".
    """
    document: dict[str, Any] = {
        "protocol": (
            "oracle: dsc, iou and their threshold (the one that maximises precision + recall), dsc_best and every "
            "F1-max choose their threshold on the labels of these very test photos, one a class; dsc_cut, "
            "false_alarm_rate and miss_rate use the model's own cut and no label. A photo without an anomalous pixel "
            "counts Dice 1 if nothing is predicted, else 0; dsc_empty is what predicting nothing scores; dsc_defective_* "
            "are means over the defective photos that have an anomalous pixel at that size. ar is the "
            "share of anomalous pixels in the defective photos by the masks. pap, pixel_auroc and aupro come from all "
            "pixels in order or, in classes of very many pixels, from a histogram with an error below 1e-4: "
            "info.ranking says which for each class; thresholds, F1-max, Dice and IoU are exact either way. "
            f"Maps and masks at {size} pixels. Means are over classes."
        ),
        "size": size,
        "classes": {name: dict(values) for name, values in classes.items()},
        "mean": mean_metrics(classes),
    }
    if subsets:
        document["subsets"] = {
            name: {"classes": {label: dict(values) for label, values in part.items()}, "mean": mean_metrics(part)}
            for name, part in subsets.items()
        }
    document["info"] = dict(info)
    return document


def image_figures(
    is_defect: NDArray[np.bool_], scores: NDArray[np.float64], failed: NDArray[np.bool_] | None
) -> dict[str, float]:
    """The figures of ``IMAGE_KEYS``. failed: (N,), the verdicts; None without a cut. The rest as in :func:`evaluate_class`."""
    ranking = PixelRanking(is_defect, scores)
    both = 0 < int(is_defect.sum()) < len(is_defect)  # with one kind alone AP and F1 are 1 by construction
    best = ranking.f1_max()
    return {
        "n_good": int((~is_defect).sum()),
        "n_defective": int(is_defect.sum()),
        "image_auroc": ranking.auroc(),
        "image_ap": ranking.average_precision() if both else NAN,
        "image_f1max": best.value if both else NAN,
        "image_f1max_threshold": best.threshold if both else NAN,
        "false_alarm_rate": NAN if failed is None else mean_of(failed[~is_defect]),
        "miss_rate": NAN if failed is None else mean_of(~failed[is_defect]),
    }


def dice_figures(
    oracle: Best, f1: Best, best: Best, at_oracle: Overlap, at_best: Overlap, is_defect: NDArray[np.bool_]
) -> dict[str, float]:
    """What the thresholds chosen on the labels give.

    Args:
        oracle, f1, best: the thresholds by precision + recall, by F1 of all pixels and by mean Dice.
        at_oracle, at_best: what the first and the last draw in each photo, (N,).
        is_defect: (N,).
    """
    dice, dice_best = at_oracle.dice(), at_best.dice()
    marked = is_defect & (at_oracle.truth > 0)
    return {
        "pixel_f1max": f1.value,
        "pixel_f1max_threshold": f1.threshold,
        "dsc": float(dice.mean()),
        "dsc_threshold": oracle.threshold,
        "dsc_best": float(dice_best.mean()),
        "dsc_best_threshold": best.threshold,
        "dsc_defective_oracle": mean_of(dice[marked]),
        "dsc_defective_best": mean_of(dice_best[marked]),
        "iou": float(at_oracle.iou().mean()),
    }


def mean_of(values: NDArray[Any]) -> float:
    """The mean; NaN of nothing."""
    return float(np.mean(values)) if len(values) else NAN


def _pixel_figures(
    maps: NDArray[np.float32],
    masks: NDArray[np.bool_],
    is_defect: NDArray[np.bool_],
    valid: NDArray[np.bool_] | None,
    given: PixelRanking | None,
) -> dict[str, float]:
    values = {"ar": anomaly_ratio(masks, is_defect), "dsc_empty": empty_mask_dsc(masks)}
    if valid is not None and is_defect.any():
        values["ar"] = float(masks[is_defect].sum() / valid[is_defect].sum())
    ranking = given
    if ranking is None:
        ranking = PixelRanking(masks, maps) if valid is None else PixelRanking(masks[valid], maps[valid])
    if not len(ranking.positives):
        return values
    oracle, best = ranking.oracle(), best_dsc(masks, maps, ranking)
    single = best_dsc(masks, maps, ranking, counted=is_defect & masks.any(axis=(1, 2)))
    at_oracle = overlaps(masks, at_least(maps, oracle.threshold))
    at_best = overlaps(masks, at_least(maps, best.threshold))
    return {
        **values,
        "pap": ranking.average_precision(),
        "pixel_auroc": ranking.auroc(),
        "aupro": aupro(masks, maps, ranking=ranking),
        "dsc_defective_single": single.value,
        **dice_figures(oracle, ranking.f1_max(), best, at_oracle, at_best, is_defect),
    }
