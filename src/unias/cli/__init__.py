"""The command line: one file a command, each parse -> settings -> one call. Heavy imports stay inside the commands, so that
``--help`` answers at once.

Exit codes: 0 done, 1 failed, 2 usage, 3 bad data, 4 missing weights or extra, 130 interrupted.
"""

from __future__ import annotations

import io
import sys

import typer

from unias.cli import (
    ablate,
    bench,
    calibrate,
    compare,
    convert,
    data,
    demo,
    evaluate,
    export,
    export_labels,
    extend,
    predict,
    push,
    rename,
    serve,
    studio,
    train,
    watch,
)
from unias.errors import EXIT_FAILURE, EXIT_INTERRUPTED, UniasError

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 usage, 3 bad data, 4 missing weights or extra, 130 interrupted."

app = typer.Typer(
    name="unias",
    help="One model for every product line: learns from photos of good parts alone and marks defects pixel by pixel.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(epilog=EXIT_CODES)(train.train)
app.command(epilog=EXIT_CODES)(predict.predict)
app.command(epilog=EXIT_CODES)(watch.watch)
app.command(epilog=EXIT_CODES)(calibrate.calibrate)
app.command(epilog=EXIT_CODES)(serve.serve)
app.command(epilog=EXIT_CODES)(studio.studio)
app.command(epilog=EXIT_CODES)(evaluate.evaluate)
app.command(epilog=EXIT_CODES)(extend.extend)
app.command(epilog=EXIT_CODES)(rename.rename)
app.command(epilog=EXIT_CODES)(compare.compare)
app.command(epilog=EXIT_CODES)(ablate.ablate)
app.command(epilog=EXIT_CODES)(data.data)
app.command(epilog=EXIT_CODES)(export.export)
app.command(epilog=EXIT_CODES)(export_labels.export_labels)
app.command(epilog=EXIT_CODES)(push.push)
app.command(epilog=EXIT_CODES)(convert.convert)
app.command(epilog=EXIT_CODES)(demo.demo)
app.add_typer(bench.commands(EXIT_CODES), name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        from unias import __version__

        typer.echo(f"unias {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and stop."
    ),
) -> None:
    """Set up nothing: every command stands alone."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command; every error becomes one line on standard error and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that cannot show a name still shows the rest
    try:
        app(arguments)
    except UniasError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == EXIT_INTERRUPTED:  # how typer ends on Ctrl-C where the command itself has nothing to say
            print("interrupted.", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_FAILURE)
    except MemoryError:
        print("error: out of memory. Use a smaller --size, or another machine.", file=sys.stderr)
        sys.exit(EXIT_FAILURE)
