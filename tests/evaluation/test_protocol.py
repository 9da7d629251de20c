"""The protocol on small classes worked out by hand, and against scikit-learn."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from unias.errors import DataError
from unias.evaluation.protocol import KEYS, NOT_AVERAGED, evaluate_class, mean_metrics, metrics_document
from unias.evaluation.streaming import ClassStream
from unias.files import json_ready

NAN = math.nan


def small_class() -> dict[str, np.ndarray]:
    """Two defective photos (half, all anomalous) and two good ones, 2 x 2 pixels."""
    masks = np.array([[[1, 1], [0, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]], dtype=bool)
    maps = np.array([[[9, 4], [5, 1]], [[8, 8], [6, 2]], [[3, 3], [0, 0]], [[7, 0], [0, 0]]], dtype=np.float32)
    is_defect = np.array([True, True, False, False])
    return {"maps": maps, "masks": masks, "is_defect": is_defect, "image_scores": maps.max(axis=(1, 2)).astype(float)}


def test_by_hand() -> None:
    values = evaluate_class(**small_class(), cut=7.0)
    assert set(values) == set(KEYS)
    # thresholds: 2 gives precision 6/9 (5, 7 and two 3s are not anomalous, 1 and the zeros stay below) and recall 1
    assert values["dsc_threshold"] == 2.0
    assert values["dsc"] == pytest.approx((4 / 5 + 1 + 0 + 0) / 4)
    assert values["dsc_defective_oracle"] == pytest.approx(0.9)
    assert values["iou"] == pytest.approx((2 / 3 + 1) / 4)
    # cut 7, not inclusive: one of two pixels, two of four, nothing, nothing
    assert values["dsc_cut"] == pytest.approx((2 / 3 + 2 / 3 + 2) / 4)
    assert values["dsc_defective_cut"] == pytest.approx(2 / 3)
    assert values["dsc_best"] == pytest.approx((2 / 3 + 2 / 3 + 2) / 4)
    assert values["dsc_empty"] == 0.5
    assert values["ar"] == pytest.approx(6 / 8)
    assert (values["false_alarm_rate"], values["miss_rate"]) == (0.0, 0.0)
    assert (values["n_good"], values["n_defective"]) == (2, 2)
    assert values["image_auroc"] == values["image_ap"] == values["image_f1max"] == 1.0
    assert values["image_f1max_threshold"] == 8.0


def test_no_mask_is_drawn_in_a_photo_that_passed() -> None:
    table = small_class()
    table["image_scores"] = np.array([0.0, 9.0, 0.0, 0.0])
    values = evaluate_class(**table, cut=7.0)
    assert values["dsc_cut"] == pytest.approx((0 + 2 / 3 + 2) / 4)
    assert values["miss_rate"] == 0.5


def test_a_defect_too_small_for_the_size_is_in_no_dice_of_defective_photos() -> None:
    """Its mask vanished when it was made smaller: drawing nothing there is no success, drawing something no failure."""
    table = small_class()
    without = evaluate_class(**table, cut=7.0)
    vanished = {
        "maps": np.concatenate([table["maps"], table["maps"][:1]]),
        "masks": np.concatenate([table["masks"], np.zeros((1, 2, 2), dtype=bool)]),
        "is_defect": np.append(table["is_defect"], True),
        "image_scores": np.append(table["image_scores"], 9.0),
    }
    values = evaluate_class(**vanished, cut=7.0)
    for key in ("dsc_defective_oracle", "dsc_defective_best", "dsc_defective_single", "dsc_defective_cut"):
        assert 0 < values[key] <= 1
    assert values["dsc_defective_cut"] == without["dsc_defective_cut"]
    assert values["n_defective"] == 3
    with ClassStream(7.0, exact_pixels=0) as stream:
        stream.add(vanished["maps"], vanished["masks"], vanished["is_defect"], vanished["image_scores"])
        streamed = stream.figures().values
    assert {key: streamed[key] for key in values if key.startswith("dsc_defective")} == {
        key: pytest.approx(values[key]) for key in values if key.startswith("dsc_defective")
    }


def test_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    masks = np.zeros((10, 20, 20), dtype=bool)
    masks[:6, 3:9, 4:12] = True
    maps = (rng.standard_normal(masks.shape) + masks).astype(np.float32).round(2)
    is_defect, scores = np.arange(10) < 6, maps.max(axis=(1, 2)).astype(float)
    values = evaluate_class(maps, masks, is_defect, scores, None)
    assert values["pap"] == pytest.approx(sk.average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert values["pixel_auroc"] == pytest.approx(sk.roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert values["image_auroc"] == pytest.approx(sk.roc_auc_score(is_defect, scores), abs=1e-12)
    assert values["image_ap"] == pytest.approx(sk.average_precision_score(is_defect, scores), abs=1e-12)
    assert values["dsc"] <= values["dsc_best"]
    assert all(math.isnan(values[key]) for key in ("dsc_cut", "dsc_defective_cut", "false_alarm_rate", "miss_rate"))


def test_class_without_a_defect() -> None:
    table = {key: value[2:] for key, value in small_class().items()}
    values = evaluate_class(**table, cut=5.0)
    assert (values["dsc_cut"], values["dsc_empty"], values["false_alarm_rate"]) == (0.5, 1.0, 0.5)
    defined = {"dsc_cut", "dsc_empty", "false_alarm_rate", "n_good", "n_defective"}
    assert {key for key, value in values.items() if not math.isnan(value)} == defined


def test_class_without_a_good_photo_and_all_anomalous() -> None:
    table = {key: value[1:2] for key, value in small_class().items()}
    values = evaluate_class(**table, cut=5.0)
    assert values["pap"] == values["dsc"] == values["dsc_best"] == 1.0
    assert values["dsc_cut"] == pytest.approx(6 / 7)
    for key in ("pixel_auroc", "aupro", "image_auroc", "image_ap", "image_f1max", "false_alarm_rate"):
        assert math.isnan(values[key])


def test_class_without_masks() -> None:
    table: dict = small_class()
    table["masks"] = None
    values = evaluate_class(**table, cut=5.0)
    assert values["image_auroc"] == 1.0
    assert values["false_alarm_rate"] == 0.5
    for key in ("pap", "pixel_auroc", "dsc", "dsc_best", "dsc_cut", "dsc_empty", "ar", "iou", "aupro"):
        assert math.isnan(values[key])


def test_no_photo_at_all() -> None:
    table = {key: value[:0] for key, value in small_class().items()}
    values = evaluate_class(**table, cut=5.0)
    assert {key for key, value in values.items() if not math.isnan(value)} == {"n_good", "n_defective"}


def test_what_does_not_fit_is_refused() -> None:
    table = small_class()
    table["masks"] = table["masks"][:3]
    with pytest.raises(DataError, match="do not fit"):
        evaluate_class(**table, cut=5.0)


def test_means_leave_undefined_classes_out_and_say_so() -> None:
    means = mean_metrics({"a": {"pap": 0.2, "ar": 0.1}, "b": {"pap": 0.4, "ar": NAN}, "c": {"pap": NAN, "ar": NAN}})
    assert means["pap"] == pytest.approx(0.3)
    assert means["ar"] == 0.1
    assert math.isnan(means["dsc"])
    assert (means["n_classes"]["pap"], means["n_classes"]["ar"], means["n_classes"]["dsc"]) == (2, 1, 0)
    assert not set(NOT_AVERAGED) & set(means)
    assert "n_good" in NOT_AVERAGED


def test_document_says_oracle_and_is_json() -> None:
    classes = {"part": evaluate_class(**small_class(), cut=7.0)}
    document = metrics_document(classes, "224 x 224", {"seed": 0}, subsets={"final": classes})
    text = json.dumps(json_ready(document), allow_nan=False)
    read = json.loads(text)
    assert "oracle" in read["protocol"]
    assert "labels of these very test photos" in read["protocol"]
    assert "224 x 224" in read["protocol"]
    assert read["classes"]["part"]["dsc_empty"] == read["mean"]["dsc_empty"] == 0.5
    assert read["subsets"]["final"]["mean"]["pap"] == read["mean"]["pap"]
    assert list(read) == ["protocol", "size", "classes", "mean", "subsets", "info"]
