"""``unias watch``."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from unias.cli import options

if TYPE_CHECKING:
    from unias.serve.courier import Courier
    from unias.serve.ledger import Ledger


def watch(
    model: Path = typer.Argument(..., help="Folder of a trained or exported model."),
    folder: Path = typer.Argument(..., help="Folder to watch, with its subfolders; a network share will do."),
    output: Path = typer.Option(
        ..., "-o", "--output", help="Folder for results.csv, results.jsonl, heat maps and masks; kept from run to run."
    ),
    product: str | None = typer.Option(None, help="Which product the photos show. Default: recognised."),
    levels: bool = typer.Option(False, help="Also a picture of the map of every level (supplement, Fig. 3)."),
    after: str = typer.Option("keep", help="What becomes of a photo that has its row: keep, move or delete."),
    done: Path | None = typer.Option(None, help="Where --after move puts photos. Default: done in the output folder."),
    once: bool = typer.Option(False, "--once", help="End when every photo that lies there has its row."),
    settle: float = typer.Option(1.0, min=0, help="Seconds that a file must have stayed the same before it is read."),
    poll: float = typer.Option(0.5, min=0.01, help="Seconds between looks at the folder."),
    patience: float = typer.Option(
        60.0, min=0, help="Seconds until a file that cannot be decoded comes to a row of its own, as unreadable."
    ),
    batch: int = typer.Option(8, min=1, help="Photos inspected at a time, at most."),
    webhook: str | None = typer.Option(None, help="URL that gets a signed POST for every row, tried until it arrives."),
    webhook_secret_file: Path | None = typer.Option(
        None, help="File with the secret to sign with, whsec_<base64>. Default: the variable UNIAS_WEBHOOK_SECRET."
    ),
    mqtt: str | None = typer.Option(None, help="Broker that gets every row: mqtt://host:1883, or mqtts:// for TLS."),
    mqtt_topic: str = typer.Option("unias/results", help="Topic to publish to."),
    mqtt_user: str | None = typer.Option(None, help="User at the broker."),
    mqtt_password_file: Path | None = typer.Option(
        None, help="File with the password at the broker. Default: the variable UNIAS_MQTT_PASSWORD."
    ),
    mqtt_ca: Path | None = typer.Option(None, help="Certificates (PEM) to trust for mqtts. Default: the system's."),
    resend: bool = typer.Option(False, "--resend", help="Try again what a webhook had refused for good."),
    device: str = options.Device,
    precision: str = options.Precision,
    threads: int | None = options.Threads,
    as_json: bool = options.AsJson,
    quiet: bool = options.Quiet,
) -> None:
    """Inspect photos as they appear in a folder: exactly one row each, whatever happens in between.

    Runs until it is stopped (Ctrl-C, SIGTERM), then finishes the photos in hand; the same command goes on where it ended.
    """
    from unias.errors import EXIT_DATA, EXIT_FAILURE, Interrupted, UsageError
    from unias.serve.folder import Folder
    from unias.serve.ledger import Ledger
    from unias.serve.watch import AFTER, MOVE, Watch, check_places

    if after not in AFTER:
        raise UsageError(f"--after {after}: must be one of {', '.join(AFTER)}.")
    if done is not None and after != MOVE:
        raise UsageError("--done: is for --after move.")
    kept = done or output / "done"
    check_places(folder, output, kept)
    make_webhook = _webhook(webhook, webhook_secret_file)
    make_mqtt = _mqtt(mqtt, mqtt_topic, mqtt_user, mqtt_password_file, mqtt_ca)
    progress = options.progress(quiet)
    with _stopping() as (stop, interrupted), Ledger(output, folder) as ledger:
        couriers = [make(ledger, progress) for make in (make_webhook, make_mqtt) if make is not None]
        if resend:
            progress.say(f"{ledger.resend()} parked rows are tried again")
        from unias.api import load
        from unias.runtime import set_threads
        from unias.serve.inspector import ModelInspector

        set_threads(threads)
        inspect = ModelInspector(load(model, device, precision), output, product, levels, progress.say)
        place = Folder(folder, (output, kept), settle, patience)
        watcher = Watch(ledger, place, inspect, progress, couriers, after, kept, batch, poll)
        progress.say(f"watching {folder}; results in {output}")
        tally = watcher.run(stop, once)
    text = f"{tally.photos} photos: {tally.ok} ok, {tally.failed} failed"
    text += f" ({tally.unknown} of no known product)" if tally.unknown else ""
    text += f" ({tally.unreadable} unreadable)" if tally.unreadable else ""
    for sink, count in tally.outstanding.items():
        text += f", {count['waiting']} waiting for {sink}" if count["waiting"] else ""
        text += f", {count['parked']} refused by {sink} and parked" if count["parked"] else ""
    options.answer(as_json, tally.as_dict(), f"{text}. Results: {output / 'results.csv'}")
    if interrupted.is_set():
        raise Interrupted("stopped by Ctrl-C; every row is kept, and the same command goes on.")
    if once and tally.unreadable:
        raise typer.Exit(EXIT_DATA)
    if once and any(sum(tally.outstanding.get(sink, {}).values()) for sink in tally.delivered):
        raise typer.Exit(EXIT_FAILURE)


@contextlib.contextmanager
def _stopping() -> Iterator[tuple[threading.Event, threading.Event]]:
    """(set when to stop, set when by Ctrl-C). A second Ctrl-C ends at once, as without this."""
    stop, interrupted = threading.Event(), threading.Event()

    def handle(number: int, _frame: Any) -> None:
        if number == signal.SIGINT:
            interrupted.set()
            signal.signal(signal.SIGINT, signal.default_int_handler)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop, interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _webhook(url: str | None, file: Path | None) -> Any:
    """What makes the webhook's courier once there is a ledger; None where none is wished."""
    from unias.errors import UsageError
    from unias.serve.courier import read_secret
    from unias.serve.webhook import Webhook, check_url, read_key

    if url is None:
        if file is not None:
            raise UsageError("--webhook-secret-file: is for --webhook.")
        return None
    check_url(url)
    key = read_key(read_secret("--webhook-secret-file", file, "UNIAS_WEBHOOK_SECRET"))

    def make(ledger: Ledger, progress: Any) -> Courier:
        return Webhook(ledger, url, key, progress)

    return make


def _mqtt(url: str | None, topic: str, user: str | None, file: Path | None, authority: Path | None) -> Any:
    """The same for MQTT."""
    from unias.errors import UsageError
    from unias.serve.courier import read_secret
    from unias.serve.mqtt import Mqtt, import_paho, read_broker

    if url is None:
        if any(wish is not None for wish in (user, file, authority)):
            raise UsageError("--mqtt-user, --mqtt-password-file and --mqtt-ca: are for --mqtt.")
        return None
    password = read_secret("--mqtt-password-file", file, "UNIAS_MQTT_PASSWORD") if user or file else None
    broker = read_broker(url, topic, user, password, authority)
    import_paho()

    def make(ledger: Ledger, progress: Any) -> Courier:
        return Mqtt(ledger, broker, f"unias-{ledger.key.hex[:12]}", progress)

    return make
