"""One look at every photo before hours go into training: unreadable ones are named, dark 16-bit data is pointed out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from unias.data.decode import read_photo
from unias.data.layouts import Dataset, Sample, require_training
from unias.errors import DataError
from unias.progress import Progress
from unias.runtime import decoders

HOW_TO_SKIP = "Or leave such photos out, each named: run again with --skip-bad."
HOW_TO_MEND = "Or take it out of its folder and run again."
DARK = 1 / 8  # largest value of a product's deep photos, as a share of the range, under which --bits is suggested


def check_photos(
    dataset: Dataset, bits: int | None, skip_bad: bool, progress: Progress, advice: str = HOW_TO_SKIP
) -> Dataset:
    """Decode every training photo (held-out ones too: only whether they can be read).

    Args:
        advice: what else can be done about a photo that cannot be read, said in the error.

    Returns:
        The data set, without the photos that cannot be read where ``skip_bad``.

    Raises:
        DataError: a photo that cannot be read, named, with ``advice``; a product with no readable photo left.
    """
    samples = dataset.train()
    bad: set[str] = set()
    brightest: dict[str, float] = {}

    def look(sample: Sample) -> tuple[float, int] | DataError:
        try:
            photo = read_photo(sample.path, bits)
        except DataError as error:
            return error
        return photo.largest, photo.bits

    with ThreadPoolExecutor(decoders()) as pool, progress.stage("checking photos", len(samples)) as advance:
        for sample, seen in zip(samples, pool.map(look, samples), strict=True):
            advance()
            if isinstance(seen, DataError):
                if not skip_bad:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise DataError(f"{seen} {advice}") from seen
                progress.say(f"left out: {seen}")
                bad.add(sample.key)
            elif seen[1] > 8:
                brightest[sample.product] = max(brightest.get(sample.product, 0.0), seen[0])
    _warn_dark(brightest, bits, progress)
    if not bad:
        return dataset
    kept = dataset.only(sample.key for sample in dataset.samples if sample.key not in bad)
    lost = sorted({s.product for s in samples} - {s.product for s in kept.train()})
    if lost:
        raise DataError(f"{dataset.root}: no readable training photo of {', '.join(lost)} is left. Replace its photos.")
    require_training(kept)
    return kept


def with_advice(error: DataError, paths: Sequence[object], advice: str) -> DataError:
    """A photo's error met in the middle of training, with what can be done; other errors as they are."""
    text = str(error)
    if advice in text or not any(text.startswith(str(path)) for path in paths):
        return error
    return DataError(f"{text} {advice}")


def _warn_dark(brightest: dict[str, float], bits: int | None, progress: Progress) -> None:
    for product, value in brightest.items():
        if bits is None and value < DARK:
            progress.say(
                f"warning: {product}: the largest value of its 16-bit photos is {value:.1%} of the range. If the camera gives "
                "12 bits, say so: --bits 12."
            )
