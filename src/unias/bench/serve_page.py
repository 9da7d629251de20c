"""``serve.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unias.bench.pages import QUICK, bar_lines, table
from unias.bench.stamps import stamp_lines

Document = Mapping[str, Any]


def serve_page(document: Document) -> str:
    """Load, the bare predictor, memory, bars."""
    about, seconds, best = document["model"], document["seconds"], document["bare"]["best"]
    record = "".join(f", {key} {value}" for key, value in about["record"].items() if value is not None)
    rows = [
        (
            str(number),
            f"{row['photos_a_second']:.1f}",
            f"{row['bare']:.1f}",
            f"{row['share_of_bare']:.1%}",
            f"{row['p50'] * 1000:.0f}",
            f"{row['p99'] * 1000:.0f}",
        )
        for number, row in enumerate(document["stretches"], 1)
    ]
    bare = [(str(size), f"{rate:.1f}") for size, rate in document["bare"]["photos_a_second"].items()]
    memory = ", ".join("unknown" if one is None else f"{one:.0f}" for one in document["memory_mib"])
    lines = ["# Serving", "", *([QUICK, ""] if document["quick"] else [])]
    lines += [
        f"{document['clients']} clients, each of which sends its next photo when it has the answer to the last one, for "
        f"{document['minutes']:.3g} minutes. The bare predictor is `Model.predict` on the same files in memory, in batches of "
        f"{best}, timed before and after each stretch in another process, while the server is idle.",
        "",
        *table(("stretch", "photos a second", "bare predictor", "share", "p50, ms", "p99, ms"), rows),
        "",
        f"{document['answers']:,} answers: p50 {seconds['p50'] * 1000:.0f} ms, p99 {seconds['p99'] * 1000:.0f} ms, slowest "
        f"{seconds['max'] * 1000:.0f} ms; {document['mean_batch']:.2f} photos judged together on average.",
        f"Memory of the server after warm-up and after each stretch, MiB: {memory}.",
        "",
        "## The bare predictor",
        "",
        *table(("batch", "photos a second"), bare),
        "",
        "## Bars",
        "",
        *bar_lines(document["bars"]),
        "",
        "## What was measured",
        "",
        f"- model: {about['name']}{record}; preset {document['preset']}, {document['size']} x {document['size']}; "
        f"{document['photos']} photos of {document['data']}, {document['mean_bytes'] / 1024:.0f} KiB each on average",
        f"- server: batches of up to {document['batch']}; errors: {document['errors'] or 'none'}",
        *stamp_lines(document),
        "",
    ]
    return "\n".join(lines)
