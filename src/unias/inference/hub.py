"""Models on the Hugging Face Hub: pushed with a card, fetched by name, checked before anything is opened.

A name is ``user/model``, ``hf://user/model``, either with ``@revision`` (branch, tag or commit). What lies on this machine wins
over a name without ``hf://``. Only safetensors, YAML, JSON and Markdown go either way; exports do not.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from unias import __version__
from unias.errors import DataError, MissingError, UniasError, UsageError
from unias.inference import rehearsal
from unias.inference.engines import INFO_FILE
from unias.inference.store import check_manifest

PREFIX = "hf://"
MANIFEST = "manifest.json"
CARD = "README.md"
KINDS = (".safetensors", ".yaml", ".json", ".md")
TASK = "image-segmentation"  # the Hub knows none for anomalies
_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class HubName:
    """``user/model`` and what of it: a branch, tag or commit; None = the main branch."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def hub_name(folder: Path | str, revision: str | None = None) -> HubName | None:
    """What ``folder`` is called on the Hub, or None where it is meant to be on this machine: it is there, or the folder that it
    would lie in is. Raises UsageError for ``hf://`` with something that is no name, or for two revisions."""
    text = folder.as_posix() if isinstance(folder, Path) else folder
    marked = re.match(r"hf:/{1,2}", text)  # a Path has one slash left
    if marked is None and (Path(folder).exists() or Path(folder).parent.is_dir()):
        return None
    found = _NAME.fullmatch(text[marked.end() :] if marked else text)
    if found is None:
        if marked:
            raise UsageError(f"{text}: is no name on the Hub. Give {PREFIX}user/model, or {PREFIX}user/model@revision.")
        return None
    if revision and found["revision"] and revision != found["revision"]:
        raise UsageError(f"{text}: names one revision, and revision={revision!r} another. Give one of the two.")
    return HubName(found["repo"], revision or found["revision"])


def local_folder(folder: Path | str, revision: str | None = None) -> Path:
    """Where the model's files are on this machine, fetched from the Hub first where ``folder`` is a name there.

    Files come through huggingface_hub's cache: what is there already is not fetched again, and serves without a network.
    The manifest comes first, then what it lists and nothing else, all of one commit.

    Raises:
        MissingError: the Hub cannot be reached and the model is not in the cache.
        DataError: no such model or revision, no access, or one that is not unias's.
        UsageError: a revision of a folder on this machine.
    """
    name = hub_name(folder, revision)
    if name is None:
        if revision is not None:
            raise UsageError(
                f"{folder}: is on this machine, which has no revisions. Leave revision out, or name {PREFIX}..."
            )
        return Path(folder)
    manifest = _fetch(name, MANIFEST, name.revision)
    try:
        files = [str(file) for file in json.loads(manifest.read_text(encoding="utf-8"))["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{name}: its {MANIFEST} cannot be read, so it is no model of unias. Check the name."
        ) from error
    _allow(files, str(name))
    home = manifest.parent
    for file in files:
        _fetch(name, file, home.name)  # the folder is called by the commit
    return home


def own_folder(folder: Path | str, output: Path | None) -> Path:
    """The folder of a model that is to be changed: ``local_folder``, for a model on the Hub only where the changed one is to be
    written elsewhere. Raises UsageError where it is not, and what that raises."""
    if hub_name(folder) is not None and output is None:
        raise UsageError(f"{folder}: is on the Hub, where nothing is changed. Give the changed model a folder with -o.")
    return local_folder(folder)


def push(
    folder: Path | str,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    licence: str = "other",
    photos: bool = False,
) -> str:
    """Put a trained model on the Hub, in one commit, with its card. Gives back its address.

    Args:
        repo: user/model; made where it is not there.
        private: make it one that only its owners see. One that is there and public is refused.
        revision: branch, which is made where it is not there; None = main.
        licence: the Hub's word for the model's licence, such as apache-2.0, cc-by-nc-4.0, other.
        photos: push the few training photos that the model keeps for ``unias extend`` too; without them it is extended with the
            folder that it was trained on.

    Raises:
        DataError: a folder that is no model or was changed, no access.
        UsageError: an export, or what is no name. MissingError: the Hub cannot be reached.
    """
    home = Path(folder)
    name = hub_name(f"{PREFIX}{repo.removeprefix(PREFIX)}", revision)
    assert name is not None
    files = check_manifest(home)
    if not photos:
        files.pop(rehearsal.FILE, None)
    _allow(list(files), str(home))
    manifest = json.loads((home / MANIFEST).read_text(encoding="utf-8"))
    listed = json.dumps({**manifest, "files": files}, indent=2) + "\n"
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=_endpoint(), library_name="unias", library_version=__version__)
    with _explained(name):
        address = str(api.create_repo(name.repo, private=private, exist_ok=True))
        if private and not api.repo_info(name.repo).private:
            raise DataError(
                f"{name}: is there already and public, so nothing was pushed. Name another, or make it private first."
            )
        if name.revision is not None:
            api.create_branch(name.repo, branch=name.revision, exist_ok=True)
        operations: list[Any] = [CommitOperationAdd(file, str(home / file)) for file in files]
        operations.append(CommitOperationAdd(MANIFEST, listed.encode("utf-8")))
        operations.append(CommitOperationAdd(CARD, hub_card(home, name, licence).encode("utf-8")))
        api.create_commit(
            name.repo, operations, commit_message=f"model of unias {__version__}", revision=name.revision or "main"
        )
    return address


def hub_card(home: Path, name: HubName, licence: str) -> str:
    """The model's own card with the front matter that the Hub reads, and how to use it."""
    matter: Mapping[str, Any] = {
        "license": licence,
        "library_name": "unias",
        "pipeline_tag": TASK,
        "tags": ["unias", "anomaly-detection", "anomaly-segmentation", "defect-detection"],
    }
    own = (home / "card.md").read_text(encoding="utf-8")
    return (
        f"---\n{yaml.safe_dump(dict(matter), sort_keys=False)}---\n\n{own}\n## Use\n\n```python\nimport unias\n\n"
        f'model = unias.load("{name}")\nresult = model.predict("photo.png")\nprint(result.verdict, result.pred_score)\n```\n'
    )


def _allow(files: list[str], where: str) -> None:
    if INFO_FILE in files:
        raise UsageError(f"{where}: is an export. The Hub carries trained models; export where the model is used.")
    for file in files:
        if PurePosixPath(file).name != file or not file.endswith(KINDS):
            raise DataError(
                f"{where}: holds {file!r}. Models on the Hub are safetensors, YAML, JSON and Markdown alone."
            )


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _fetch(name: HubName, file: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    with _explained(name, file):
        path = hf_hub_download(
            name.repo,
            file,
            revision=revision,
            endpoint=_endpoint(),
            library_name="unias",
            library_version=__version__,
        )
    return Path(path)


@contextlib.contextmanager
def _explained(name: HubName, file: str = "") -> Iterator[None]:
    """huggingface_hub's errors as ours, each with what to do."""
    try:
        yield
    except UniasError:
        raise
    except Exception as error:
        raise _ours(error, name, file) from error


def _ours(error: Exception, name: HubName, file: str) -> UniasError:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return DataError(f"{name}: there is no such revision of {name.repo}. Name a branch, tag or commit of it.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return DataError(
            f"{name}: there is no such model folder here, and no such model on the Hub, or you may not see it. Check the "
            "name; for private models log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return DataError(f"{name}: has no {file}, so it is no model of unias. Check the name and the revision.")
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"{name}: is no name on the Hub ({_line(error)}). Give user/model.")
    if status in (401, 403):
        return DataError(
            f"{name}: the Hub refuses access. Log in with `hf auth login` or set HF_TOKEN to a token that may."
        )
    if isinstance(error, ValueError) or (status is not None and status >= 400):
        return DataError(f"{name}: the Hub did not do it ({_line(error)}). Mend what it says, or try again later.")
    return MissingError(
        f"{name}: is no folder here and not in the Hub's cache, and {_endpoint() or 'huggingface.co'} cannot be reached "
        f"({type(error).__name__}). Fetch it once where there is internet, or copy the model's folder here and give its "
        "path; HF_ENDPOINT names a mirror."
    )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
