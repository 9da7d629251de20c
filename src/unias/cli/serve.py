"""``unias serve``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def serve(
    model: Path = typer.Argument(..., help="Folder of a trained or exported model."),
    host: str = typer.Option("127.0.0.1", help="Address to listen on. Any but this machine's own needs a token."),
    port: int = typer.Option(8000, min=0, max=65535, help="Port; 0 takes any free one."),
    token_file: Path | None = typer.Option(
        None, help="File with the token that every request must carry. Default: the variable UNIAS_TOKEN, if set."
    ),
    name: str | None = typer.Option(None, help="What clients call the model. Default: the folder's name."),
    max_mib: float = typer.Option(32.0, min=0.001, help="Largest file of a photo, in MiB."),
    max_megapixels: float = typer.Option(32.0, min=0.0001, help="Largest photo, in millions of pixels."),
    queue: int = typer.Option(64, min=1, help="Photos taken in at once; one more is answered with 429."),
    batch: int = typer.Option(8, min=1, help="Photos judged together, at most."),
    linger: float = typer.Option(3.0, min=0, help="Milliseconds that a batch waits for photos on their way, at most."),
    timeout: float = typer.Option(30.0, min=0.1, help="Seconds from a photo's last byte to its answer; then 504."),
    upload_timeout: float = typer.Option(60.0, min=0.1, help="Seconds that an upload may take; then 408."),
    decoders: int = typer.Option(2, min=1, help="Threads that decode photos and write masks."),
    grace: float = typer.Option(
        0.0, min=0, help="Seconds to go on refusing photos after SIGTERM, for a load balancer to see it."
    ),
    access_log: bool = typer.Option(False, "--access-log", help="One line a request on standard error."),
    device: str = options.Device,
    precision: str = options.Precision,
    threads: int | None = options.Threads,
    quiet: bool = options.Quiet,
) -> None:
    """Answer over HTTP: photos in, verdicts, masks and maps out. Described at /docs of the server.

    SIGTERM or Ctrl-C: what was taken in is answered, then it ends. Needs the extra: pip install "unias[serve]".
    """
    import signal

    from unias.errors import Interrupted, MissingError

    try:
        import fastapi  # noqa: F401
        import fastapi_offline  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingError(
            f'unias serve needs the package {error.name}, which is not installed here. pip install "unias[serve]" brings it.'
        ) from error

    from unias.runtime import set_threads
    from unias.serve.app import create_app
    from unias.serve.auth import read_token
    from unias.serve.run import bind, run_server, url_of
    from unias.serve.service import Service
    from unias.serve.settings import MEGABYTE, ServeSettings

    token = read_token(token_file, host)
    largest = round(max_mib * MEGABYTE)
    settings = ServeSettings(
        max_bytes=largest,
        max_pixels=round(max_megapixels * 1e6),
        queue=queue,
        held_bytes=8 * largest,
        batch=batch,
        linger=linger / 1000,
        timeout=timeout,
        upload_timeout=upload_timeout,
        decoders=decoders,
        grace=grace,
    )
    set_threads(threads)
    with bind(host, port) as bound:
        service = Service.open(model, settings, device, precision, name or "")
        count = len(service.model.products)
        line = f"{service.name}: {count} product{'s' if count != 1 else ''} at {url_of(bound)} (described at /docs)"
        ended_by = run_server(
            create_app(service, token),
            bound,
            service.gate,
            grace=grace,
            access_log=access_log,
            started=(lambda: None) if quiet else (lambda: typer.echo(line)),
        )
    if ended_by == signal.SIGINT:
        raise Interrupted("stopped by Ctrl-C; every photo taken in was answered.")
