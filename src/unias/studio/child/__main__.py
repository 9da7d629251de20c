"""One job from its folder: commands of ``unias`` one after the other, or the studio's own work; its last act is outcome.json.

What is made is made in the job's folder and renamed at the end, so that a job that is killed leaves nothing half-written.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unias.errors import UniasError
from unias.files import write_json
from unias.progress import RECORD, Progress
from unias.studio.jobs import JOB, LOG, OUTCOME, PROGRESS, WORK
from unias.studio.workspace import EXPORTS, MODELS, PHOTOS, Workspace, read_json

Wishes = dict[str, Any]
Outcome = dict[str, Any]
SETTINGS = "settings.yaml"
NOTE = "studio.json"  # in an export: of which model it is


class CommandError(UniasError):
    """A command of ``unias`` failed; the message is its own."""


def run_command(home: Path, arguments: list[str]) -> None:
    """``unias ARGUMENTS`` to its end. Raises CommandError with what it said last."""
    log = home / LOG
    before = log.stat().st_size if log.exists() else 0
    print("unias", *arguments, flush=True)
    done = subprocess.run([sys.executable, "-m", "unias", *arguments], check=False)
    if done.returncode:
        with open(log, "rb") as file:
            file.seek(before)
            said = file.read().decode("utf-8", "replace").strip().splitlines()
        errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        last = errors[-1] if errors else said[-1] if said else "it said nothing"
        raise CommandError(last)


def train(workspace: Workspace, home: Path, wishes: Wishes, progress: Progress) -> Outcome:
    """``unias train``, then all test and new photos judged."""
    import dataclasses

    from unias.config import dump_config, load_config
    from unias.files import write_text
    from unias.presets import preset
    from unias.studio.child.judging import judge_all

    target = workspace.named(MODELS, wishes["name"])
    own = workspace / SETTINGS
    config = load_config(own) if own.is_file() else preset(wishes.get("preset") or "small")
    rate = wishes.get("false_alarms")
    if rate is not None:
        config = dataclasses.replace(config, calibration=dataclasses.replace(config.calibration, false_alarms=rate))
    write_text(home / SETTINGS, dump_config(config))
    made = home / WORK / target.name
    minutes = ["--minutes", str(wishes["minutes"])] if wishes.get("minutes") else []
    arguments = [str(workspace / PHOTOS), "-o", str(made), "--config", str(home / SETTINGS), "--skip-bad", *minutes]
    run_command(home, ["train", *arguments])
    move(made, target)
    try:
        judged = judge_all(workspace, target.name, progress)
    except UniasError as error:  # the model is there all the same
        judged = {"judged": 0, "failed": 0, "unreadable": [], "note": f"its photos were not judged: {error}"}
    return {"model": target.name, **judged}


def export(workspace: Workspace, home: Path, wishes: Wishes, progress: Progress) -> Outcome:
    """``unias export``."""
    model = workspace.existing(MODELS, wishes["model"])
    name = f"{model.name}-{wishes['to']}{'-int8' if wishes.get('int8') else ''}"
    target = free_name(workspace.named(EXPORTS, name))
    made = home / WORK / target.name
    arguments = ["export", str(model), "--to", wishes["to"], "-o", str(made)]
    if any((workspace / PHOTOS).iterdir()):
        arguments += ["--data", str(workspace / PHOTOS)]
    run_command(home, [*arguments, *(["--int8"] if wishes.get("int8") else [])])
    write_json(made / NOTE, {"model": model.name, "to": wishes["to"], "int8": bool(wishes.get("int8"))})
    move(made, target)
    return {"name": target.name, "model": model.name, "to": wishes["to"]}


def judge(workspace: Workspace, home: Path, wishes: Wishes, progress: Progress) -> Outcome:
    """All test and new photos judged by a model."""
    from unias.studio.child.judging import judge_all

    return judge_all(workspace, workspace.existing(MODELS, wishes["model"]).name, progress)


def check(workspace: Workspace, home: Path, wishes: Wishes, progress: Progress) -> Outcome:
    """Odd ones out and duplicates."""
    from unias.studio.child.checking import check_photos

    return check_photos(workspace, progress)


WORKS: dict[str, Callable[[Workspace, Path, Wishes, Progress], Outcome]] = {
    "train": train,
    "export": export,
    "judge": judge,
    "check": check,
}


def move(made: Path, target: Path) -> None:
    """Put what is finished where it belongs. Raises CommandError where something lies there already."""
    if target.exists():
        raise CommandError(f"{target.name}: there is one of that name already. Choose another name.")
    os.replace(made, target)


def free_name(target: Path) -> Path:
    """``target``, or the first of target-2, target-3, ... that is not there."""
    number, place = 1, target
    while place.exists():
        number += 1
        place = target.with_name(f"{target.name}-{number}")
    return place


def main(folder: str) -> int:
    """Do the job and say how it ended; 0 where it is done."""
    from unias.serve.refusals import Refusal

    home = Path(folder)
    workspace = Workspace(home.parent.parent)
    job = read_json(home / JOB)
    progress = Progress("lines", record=os.environ.get(RECORD) or home / PROGRESS)
    try:
        result = WORKS[job["kind"]](workspace, home, job["wishes"], progress)
    except (UniasError, Refusal) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        write_json(home / OUTCOME, {"state": "failed", "message": str(error)})
        return 1
    except BaseException as error:
        write_json(
            home / OUTCOME, {"state": "failed", "message": f"{type(error).__name__}: {error}. The log says more."}
        )
        raise
    write_json(home / OUTCOME, {"state": "done", "message": "", "result": result})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
