"""Cuts by the 8-bit graph, whose scores differ a little from the trained model's: what ``unias calibrate`` set stays.

Held-out photos that are at hand are scored by the graph and ranked anew. Scores whose photos are not at hand (good photos that
people added, missed defects, ``--folds``) are moved by the median ratio of the graph's scores to the trained model's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unias.calibration.cuts import MOST_FALSE_ALARMS, lowered_cut, rank_cut
from unias.data.layouts import Sample
from unias.errors import DataError
from unias.inference.products import ProductInfo

APART = 0.25  # a photo's score may differ from the stored one by this share of the larger, or it is another photo


@dataclass(frozen=True)
class Moved:
    """One product in 8 bits.

    Attributes:
        product: with its cut and scores by the 8-bit graph.
        ratio: the graph's scores over the trained model's, by which scores without photos were moved.
        good: held-out scores that were moved. missed: likewise of missed defects.
        ranked: whether the cut was ranked anew; else it was moved too, and promises what it did.
        passing: missed defects that failed by the trained model's cut and pass now.
    """

    product: ProductInfo
    ratio: float
    good: int
    missed: int
    ranked: bool
    passing: int = 0

    def lines(self) -> list[str]:
        """For people; empty where every score was measured."""
        name, lines = self.product.name, []
        moved = [
            f"{count} {word}" for count, word in ((self.good, "held-out"), (self.missed, "missed defects'")) if count
        ]
        if moved:
            lines.append(f"{name}: {' and '.join(moved)} scores, of photos not at hand, were moved by {self.ratio:.3f}")
        if not self.ranked:
            lines.append(f"{name}: its cut was moved by {self.ratio:.3f}, measured on training photos")
        if self.passing:
            lines.append(
                f"warning: {name}: {self.passing} missed defects that the trained model's cut fails pass now. Give them to "
                "`unias calibrate --missed` with the export"
            )
        return lines


def median_ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Of (score by the trained model, score by the graph); 1 where no score is above 0."""
    ratios = [after / before for before, after in pairs if before > 0 and after > 0]
    return float(np.median(ratios)) if ratios else 1.0


def moved(product: ProductInfo, at_hand: Mapping[str, float], ratio: float) -> Moved:
    """The product's cut, held-out and missed scores as the graph sees them; rate, area and zone stay.

    Args:
        at_hand: {key: score by the graph} of held-out photos. Where there is none nothing can be ranked anew: all is moved.
        ratio: of ``median_ratio``.
    """
    old = product.cut
    pairs = zip(product.held_out, product.held_out_scores, strict=True)
    scores = tuple(at_hand.get(key, score * ratio) for key, score in pairs)
    missed = tuple(score * ratio for score in product.missed_scores)
    cut, passing = dataclasses.replace(old, value=old.value * ratio), 0
    if at_hand and old.promise.held_out:  # a cut that promised nothing (`unias convert`) does not begin to
        wished = old.promise.wished
        cut = rank_cut(scores, wished)
        # A defect that passes the trained model's cut would have taken more false alarms than were allowed.
        caught = [new for new, was in zip(missed, product.missed_scores, strict=True) if was > old.value]
        if caught:
            cut, passing = lowered_cut(scores, wished, caught, max(MOST_FALSE_ALARMS, old.promise.rate))
    return Moved(
        dataclasses.replace(product, cut=cut, held_out_scores=scores, missed_scores=missed),
        ratio,
        len(scores) - len(at_hand),
        len(missed),
        bool(at_hand),
        passing,
    )


def require_same(product: ProductInfo, samples: Sequence[Sample], scores: Sequence[float]) -> None:
    """Raise DataError for a held-out photo whose score by the trained model is far from the one it had: it is another photo."""
    known = dict(zip(product.held_out, product.held_out_scores, strict=True))
    for sample, score in zip(samples, scores, strict=True):
        was = known[sample.key]
        if abs(score - was) > APART * max(score, was):
            raise DataError(
                f"{sample.path}: the model scores it {score:.4g}, and {was:.4g} when it was held out for {product.name}, so this "
                "is another photo of that name. Give --data the folder that the model was trained on."
            )
