"""The bars of issue 4: what was measured, what was asked for, met or not, or why it was not measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Bar = dict[str, Any]  # what, measured, bar: words; met: True, False, or None where it was not measured
Document = Mapping[str, Any]
BATCH = "8"
FUSED_TIMES, FUSED_MAPS = 2.0, 1e-4
BEST_TIMES, BEST_TIMES_PLAIN_MACHINE = 6.0, 3.5
STEP_TIMES, STEP_TIMES_HALF = 1.8, 3.5
INT8_TIMES, INT8_POINTS = 30.0, 0.5
HELP_SHARE = 1 / 3
AUPRO_SHARE = 0.1
IMAGES_TIME, IMAGES_MEMORY = 1.1, 1.2
PRODUCTS_TIME, PRODUCTS_MB = 1.05, 0.2
SERVE_SHARE, SERVE_P99 = 0.9, 3.0
SERVE_GROWTH, SERVE_GROWTH_MIB = 0.05, 16.0  # of memory: this share, or so much where that is more
IMAGES = ("10,000 images against 500", "time an image within 10%, peak memory within 20%")
PRODUCTS = ("300 products against 5", "time an image within 5%, at most 0.2 MB more a product")


def bar(what: str, asked: str, measured: str, met: bool | None) -> Bar:
    """One line of the table of bars."""
    return {"what": what, "bar": asked, "measured": measured, "met": met}


def speed_bars(document: Document) -> list[Bar]:
    """Of ``unias bench speed``. With ``--quick`` nothing is judged: its figures are noise."""
    rows = {row["name"]: row for row in document["rows"]}
    training = document["training"]
    bars = [
        _fused(rows),
        _best(rows, document["instructions"]),
        _step(training, "fused", "float32", STEP_TIMES),
        _step(training, "fused-bf16", "bfloat16", STEP_TIMES_HALF),
        _int8(rows),
        _rest(document["parts"]),
        _small(document),
        _help(document["startup"]),
        _aupro(document["parts"]),
    ]
    return _marked(bars, "speed", document["quick"])


def scale_bars(document: Document) -> list[Bar]:
    """Of ``unias bench scale``."""
    return _marked([_images(document), _products(document)], "scale", document["quick"])


def serve_bars(document: Document) -> list[Bar]:
    """Of ``unias bench serve``."""
    errors, seconds, memory = sum(document["errors"].values()), document["seconds"], document["memory_mib"]
    times, share = seconds["p99"] / seconds["p50"], document["share_of_bare"]
    bars = [
        bar("errors", "none", f"{errors} of {errors + document['answers']:,} requests", errors == 0),
        bar("p99 against p50", f"at most {SERVE_P99:g}x", f"{times:.2f}x", times <= SERVE_P99),
        bar(
            "throughput against the bare predictor at its best batch",
            f"at least {SERVE_SHARE:.0%}",
            f"{share:.1%}",
            share >= SERVE_SHARE,
        ),
    ]
    asked = f"at most {SERVE_GROWTH:.0%} or {SERVE_GROWTH_MIB:g} MiB more"
    if any(one is None for one in memory):
        bars.append(bar("memory after warm-up", asked, "not measured: this system does not tell", None))
    else:
        room = max(SERVE_GROWTH * memory[0], SERVE_GROWTH_MIB)
        said = f"{memory[0]:.0f} to {memory[-1]:.0f} MiB"
        bars.append(bar("memory after warm-up", asked, said, memory[-1] - memory[0] <= room))
    return _marked(bars, "serve", document["quick"])


def kept_scale_bars(file: Path) -> list[Bar]:
    """Those of ``unias bench scale`` where its report lies in the same folder; else lines that say how to get them."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        source = f"{file.name}, commit {content['commit']}, {content['date']}"
        return [{**one, "measured": f"{one['measured']} ({source})"} for one in content["bars"]]
    except (OSError, ValueError, KeyError, TypeError):
        said = "not measured here: `unias bench scale` does, into the same folder"
        return _marked([bar(what, asked, said, None) for what, asked in (IMAGES, PRODUCTS)], "scale", False)


def _marked(bars: Sequence[Bar], bench: str, quick: bool) -> list[Bar]:
    """With the bench that they are of; unjudged where figures are noise."""
    marked = [{**one, "bench": bench} for one in bars]
    return (
        [{**one, "met": None, "measured": f"{one['measured']} (--quick: not judged)"} for one in marked]
        if quick
        else marked
    )


def _missing(row: Mapping[str, Any] | None) -> str | None:
    if row is None:
        return "not measured: left out by --only"
    return None if row["fault"] is None else str(row["fault"])


def _times(row: Mapping[str, Any]) -> float:
    return float(row["batches"][BATCH]["times_yardstick"])


def _fused(rows: Mapping[str, Any]) -> Bar:
    what, asked = (
        "`paper`, fused float32 against plain, batch 8",
        f"{FUSED_TIMES:g}x faster, maps equal within {FUSED_MAPS:g}",
    )
    row = rows.get("paper-fused")
    missing = _missing(row)
    if row is None or missing is not None:
        return bar(what, asked, missing or "", None)
    times, apart = _times(row), row["map_difference"]
    return bar(what, asked, f"{times:.2f}x, maps within {apart:.1e}", times >= FUSED_TIMES and apart <= FUSED_MAPS)


def _best(rows: Mapping[str, Any], has: Mapping[str, bool]) -> Bar:
    quick = has["bfloat16"] or has["int8"]
    least = BEST_TIMES if quick else BEST_TIMES_PLAIN_MACHINE
    said = (
        "this processor has bfloat16 or 8-bit products"
        if quick
        else "this processor has neither bfloat16 nor 8-bit products"
    )
    what, asked = "`paper`, best available against plain, batch 8", f"{least:g}x faster ({said})"
    own = [
        row for row in rows.values() if row["model"] == "paper" and row["device"] == "cpu" and row["form"] != "plain"
    ]
    ready = [row for row in own if _missing(row) is None]
    if not ready:
        return bar(what, asked, (_missing(own[0]) if own else None) or "not measured: left out by --only", None)
    best = max(ready, key=_times)
    measured = f"{_times(best):.2f}x: {best['title']}, maps within {best['map_difference']:.1e}"
    return bar(what, asked, measured, _times(best) >= least)


def _step(training: Mapping[str, Any], name: str, kind: str, least: float) -> Bar:
    what = f"`paper` training step, fused {kind} against plain float32"
    asked = f"{least:g}x faster" + (", where the processor has it" if kind == "bfloat16" else "")
    fault = training["fault"]
    if fault is not None:
        return bar(what, asked, fault, None)
    row = next(row for row in training["rows"] if row["name"] == name)
    if row["fault"] is not None:
        return bar(what, asked, row["fault"], None)
    return bar(what, asked, f"{row['times_yardstick']:.2f}x", row["times_yardstick"] >= least)


def _int8(rows: Mapping[str, Any]) -> Bar:
    what = "`small`, OpenVINO int8 against plain `paper`, batch 8; pAP against its float32"
    asked = f"{INT8_TIMES:g}x faster, at most {INT8_POINTS:g} points of pAP lost"
    row = rows.get("small-openvino-int8")
    missing = _missing(row)
    if row is None or missing is not None:
        return bar(what, asked, missing or "", None)
    times, batches = _times(row), (rows["paper-plain"]["batches"][BATCH], row["batches"][BATCH])
    each = f"{batches[1]['milliseconds_an_image']:.1f} ms an image where plain took {batches[0]['milliseconds_an_image']:.0f}"
    lost = row.get("pap_lost")
    if lost is None:
        fast = f"{times:.1f}x ({each}); pAP: {row['why']['pap_lost']}"
        return bar(what, asked, fast, False if times < INT8_TIMES else None)
    return bar(
        what, asked, f"{times:.1f}x ({each}); {lost:+.2f} points lost", times >= INT8_TIMES and lost <= INT8_POINTS
    )


def _rest(parts: Mapping[str, Any]) -> Bar:
    what = "`small`, float32 eager: all that is not backbone"
    asked = "costs no more than its backbone to stride 16, in the same run"
    if not parts:
        return bar(what, asked, "not measured: left out by --only", None)
    shares = {batch: part["rest_over_backbone"] for batch, part in parts.items()}
    each = [
        f"{share:.2f} of it at batch {batch} ({parts[batch]['rest_over_backbone_nchw']:.2f} of it in NCHW)"
        for batch, share in shares.items()
    ]
    return bar(what, asked, ", ".join(each), all(share <= 1 for share in shares.values()))


def _aupro(parts: Mapping[str, Any]) -> Bar:
    what, asked = (
        "AUPRO against the maps it judges, `small` float32 eager, batch 8",
        f"at most {AUPRO_SHARE:g} of their time",
    )
    if not parts:
        return bar(what, asked, "not measured: left out by --only", None)
    share, milliseconds = parts[BATCH]["aupro_over_maps"], parts[BATCH]["milliseconds"]["AUPRO"]
    return bar(what, asked, f"{share:.3f} of it ({milliseconds:.1f} ms a photo)", share <= AUPRO_SHARE)


def _small(document: Document) -> Bar:
    what = "`small` on line5, `final` half, median of seeds 0, 1, 2"
    asked = "issue 1's bars in 15 minutes; in 30 minutes mean pAP >= 39, screw >= 40"
    row: Mapping[str, Any] = next((row for row in document["rows"] if row["name"] == "small-eager"), {})
    found, record = row.get("pap"), document["models"].get("small", {}).get("record", {})
    said = "not measured: takes three trainings, this bench sees one model"
    if found:
        each = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
        photos = f"photos in {document['subset']}" if document.get("subset") else "all test photos"
        said += f": pAP {each} ({photos}; {record.get('minutes', '?')} minutes, seed {record.get('seed', '?')})"
    return bar(what, asked, said, None)


def _help(startup: Mapping[str, Any]) -> Bar:
    what, asked = '`unias --help` against `python -c "import torch"`', "under a third of the time"
    if startup.get("fault") is not None:
        return bar(what, asked, startup["fault"], None)
    seconds = startup["seconds"]
    measured = f"{startup['share']:.2f} of it ({seconds['help']:.2f} s, {seconds['torch']:.2f} s)"
    return bar(what, asked, measured, startup["share"] < HELP_SHARE)


def _images(document: Document) -> Bar:
    what, asked = IMAGES
    found = document["images"].get("comparison")
    if not found:
        return bar(what, asked, document["images"].get("fault") or "not measured: needs the counts 500 and 10000", None)
    many, few = found["many"], found["few"]
    time, memory = found["time_ratio"], found["memory_ratio"]
    if memory is None:
        return bar(what, asked, f"time x {time:.3f}; memory not measured: this system does not tell", None)
    measured = f"{many:,} against {few:,}: time x {time:.3f}, memory x {memory:.3f}"
    if (many, few) != (10_000, 500):
        return bar(what, asked, f"not measured: other counts were asked for ({measured})", None)
    return bar(what, asked, measured, time <= IMAGES_TIME and memory <= IMAGES_MEMORY)


def memory_words(found: Mapping[str, Any]) -> str:
    """What a product costs in memory, and how sure that is, for page and bar."""
    memory, noise = found["memory_mb_a_product"], found["memory_noise_mb_a_product"]
    return "memory not measured" if memory is None else f"{memory:+.3f} MB of peak memory (give or take {noise:.3f})"


def _products(document: Document) -> Bar:
    what, asked = PRODUCTS
    found = document["products"]
    if found.get("fault"):
        return bar(what, asked, found["fault"], None)
    few, many = found["few"]["products"], found["many"]["products"]
    time, disk, memory = found["time_ratio"], found["disk_mb_a_product"], found["memory_mb_a_product"]
    noise, said = found["memory_noise_mb_a_product"], memory_words(found)
    measured = f"{many} against {few}: time x {time:.3f}, {disk:.4f} MB on disk and {said} a product"
    if (many, few) != (300, 5):
        return bar(what, asked, f"not measured: other numbers were asked for ({measured})", None)
    if memory is None or (time <= PRODUCTS_TIME and disk <= PRODUCTS_MB and abs(memory - PRODUCTS_MB) <= noise):
        return bar(what, asked, measured, None)  # nothing that can be told from noise
    return bar(what, asked, measured, time <= PRODUCTS_TIME and max(disk, memory) <= PRODUCTS_MB)
