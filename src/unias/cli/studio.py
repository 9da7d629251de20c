"""``unias studio``."""

from __future__ import annotations

from pathlib import Path

import typer

from unias.cli import options


def studio(
    folder: Path = typer.Argument(
        Path("studio"), help="Folder that photos, models and all else lie in; made if need be."
    ),
    host: str = typer.Option("127.0.0.1", help="Address to listen on. Any but this machine's own needs a token."),
    port: int = typer.Option(8123, min=0, max=65535, help="Port; 0 takes any free one."),
    token_file: Path | None = typer.Option(
        None, help="File with the token that the page asks for. Default: the variable UNIAS_TOKEN, if set."
    ),
    open_page: bool = typer.Option(True, "--open/--no-open", help="Show the page in this machine's browser."),
    threads: int | None = options.Threads,
    quiet: bool = options.Quiet,
) -> None:
    """From a folder of photos to a model, its cut and its masks, in the browser; nothing leaves this machine.

    Ctrl-C stops the page; a training that runs goes on, and the next studio in the folder shows it. Needs the extra:
    pip install "unias[studio]".
    """
    import signal

    from unias.errors import MissingError

    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingError(
            f'unias studio needs the package {error.name}, which is not installed here. pip install "unias[studio]" brings it.'
        ) from error

    from unias.errors import Interrupted
    from unias.runtime import set_threads
    from unias.serve.auth import read_token
    from unias.serve.run import bind, run_server, url_of
    from unias.studio.app import Studio, create_app

    token = read_token(token_file, host)
    set_threads(threads)
    with bind(host, port) as bound:
        made = Studio(folder)
        with made.workspace.claimed():
            url = url_of(bound)

            def started() -> None:
                if not quiet:
                    typer.echo(f"studio: {made.workspace.root} at {url}")
                if open_page:
                    import webbrowser

                    webbrowser.open(url)

            ended_by = run_server(create_app(made, token), bound, made.gate, started=started)
    if ended_by == signal.SIGINT:
        raise Interrupted("stopped by Ctrl-C; a job that runs goes on, and the next studio in this folder shows it.")
