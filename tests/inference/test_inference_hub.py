"""Models on the Hub: pushed to and fetched from a stand-in on this machine; no test reaches the network."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hub_stand_in import Hub, Repo, running

import unias
from unias.errors import DataError, MissingError, UsageError
from unias.files import sha256
from unias.inference import rehearsal
from unias.inference.hub import HubName, _ours, hub_name, local_folder, push
from unias.inference.store import FILES

pytestmark = pytest.mark.usefixtures("one_thread")
NAME = "line-3/seals"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, a cache and a working folder of this test's own."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_XET_CACHE", str(tmp_path / "xet-cache"), raising=False)
    monkeypatch.setenv("HF_TOKEN", "none-that-counts")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with running() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


def filled(hub: Hub, folder: Path, **changes: bytes | None) -> None:
    """The model's files as a repository; ``changes`` by name with _ for the dot, None = left out."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for key, content in changes.items():
        name = key.replace("_", ".", 1)
        files.pop(name, None)
        if content is not None:
            files[name] = content
    hub.repos[NAME] = Repo()
    hub.repos[NAME].commit("main", files)


def resolved(hub: Hub) -> list[str]:
    return [path.rpartition("/")[2] for method, path in hub.asked if method == "GET" and "/resolve/" in path]


def test_push_then_load_gives_the_same_model(
    hub: Hub, model_folder: Path, model: Any, tiny_data: Path, tmp_path: Path
) -> None:
    assert push(model_folder, NAME, licence="apache-2.0") == f"{hub.url}/{NAME}"
    repo = hub.repos[NAME]
    assert not repo.private
    files = repo.commits[repo.refs["main"]]
    assert set(files) == {*FILES, "manifest.json", "README.md", ".gitattributes"}
    for name in FILES:
        assert files[name] == (model_folder / name).read_bytes()
    assert set(json.loads(files["manifest.json"])["files"]) == set(FILES)
    fetched = unias.load(NAME, device="cpu")
    photo = sorted(tiny_data.glob("*/test/hole/*.png"))[0]
    np.testing.assert_array_equal(fetched.predict(photo).model_map, model.predict(photo).model_map)
    assert sorted(resolved(hub)) == sorted([*FILES, "manifest.json"])  # nothing else is fetched
    before = len(hub.asked)
    unias.load(f"hf://{NAME}", device="cpu")
    assert not [
        path for method, path in hub.asked[before:] if method == "GET" and "/resolve/" in path
    ]  # from the cache


def test_photos_leave_only_when_asked(hub: Hub, model_folder: Path) -> None:
    """The model keeps some training photos; they are in the repository only with --with-photos."""
    assert (model_folder / rehearsal.FILE).is_file()
    push(model_folder, NAME)
    assert rehearsal.FILE not in hub.repos[NAME].commits[hub.repos[NAME].refs["main"]]
    push(model_folder, "line-3/more", photos=True)
    more = hub.repos["line-3/more"]
    kept = more.commits[more.refs["main"]]
    assert kept[rehearsal.FILE] == (model_folder / rehearsal.FILE).read_bytes()
    assert json.loads(kept["manifest.json"]) == json.loads((model_folder / "manifest.json").read_text("utf-8"))
    assert unias.load("line-3/more", "cpu").products


def test_the_card_has_the_hubs_front_matter(hub: Hub, model_folder: Path) -> None:
    push(model_folder, f"hf://{NAME}")
    card = hub.repos[NAME].commits[hub.repos[NAME].refs["main"]]["README.md"].decode("utf-8")
    _, matter, text = card.split("---\n", 2)
    found = yaml.safe_load(matter)
    assert (found["license"], found["library_name"], found["pipeline_tag"]) == ("other", "unias", "image-segmentation")
    assert "anomaly-detection" in found["tags"]
    assert (model_folder / "card.md").read_text(encoding="utf-8") in text
    assert f'unias.load("hf://{NAME}")' in text


def test_branches_tags_and_commits(hub: Hub, model_folder: Path) -> None:
    push(model_folder, NAME, revision="trial")
    repo = hub.repos[NAME]
    assert set(repo.refs) == {"main", "trial"}
    assert "manifest.json" not in repo.commits[repo.refs["main"]]
    repo.refs["v1"] = repo.refs["trial"]
    for revision in ("trial", "v1", repo.refs["trial"]):
        assert local_folder(NAME, revision).name == repo.refs["trial"]
        assert local_folder(f"hf://{NAME}@{revision}").name == repo.refs["trial"]
    assert unias.load(NAME, "cpu", revision="v1").products
    push(model_folder, NAME, revision="trial")  # a branch that is there is gone on with
    assert len(repo.commits) == 3
    with pytest.raises(DataError, match=r"has no manifest\.json, so it is no model of unias"):
        local_folder(NAME)
    with pytest.raises(DataError, match="there is no such revision of line-3/seals"):
        local_folder(NAME, "v2")
    with pytest.raises(UsageError, match="Give one of the two"):
        local_folder(f"hf://{NAME}@v1", "v2")


def test_private(hub: Hub, model_folder: Path) -> None:
    push(model_folder, NAME, private=True)
    assert hub.repos[NAME].private
    push(model_folder, NAME, private=True)
    hub.repos[NAME].private = False
    commits = dict(hub.repos[NAME].commits)
    with pytest.raises(DataError, match="is there already and public, so nothing was pushed"):
        push(model_folder, NAME, private=True)
    assert hub.repos[NAME].commits == commits


def test_a_folder_here_wins(hub: Hub, model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, Path(NAME))
    assert local_folder(NAME) == Path(NAME)
    with pytest.raises(DataError, match="no such model folder"):
        unias.load("line-3/bolts", "cpu")  # its folder is here, so it was meant to be here too
    assert hub.asked == []
    with pytest.raises(UsageError, match="has no revisions"):
        local_folder(NAME, "v1")
    with pytest.raises(DataError, match="no such model on the Hub"):
        local_folder(f"hf://{NAME}")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("user/model", HubName("user/model")),
        (Path("user/model"), HubName("user/model")),
        ("hf://user/model", HubName("user/model")),
        (Path("hf://user/model"), HubName("user/model")),  # one slash is left
        ("hf://user/model@v1.0", HubName("user/model", "v1.0")),
        ("user/model@refs/pr/1", HubName("user/model", "refs/pr/1")),
        ("model", None),
        ("/user/model", None),
        ("a/b/c", None),
        ("./user", None),
        ("", None),
    ],
)
def test_names(text: Path | str, name: HubName | None, hub: Hub) -> None:
    assert hub_name(text) == name
    if name is not None:
        assert hub_name(str(name)) == name


@pytest.mark.parametrize("text", ["hf://", "hf://model", "hf://a/b/c", "hf://a b/c"])
def test_what_is_no_name(text: str, hub: Hub) -> None:
    with pytest.raises(UsageError, match="is no name on the Hub"):
        local_folder(text)
    assert hub.asked == []


def test_without_a_network(hub: Hub, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched once serves on; what was not is an error that says what to do."""
    filled(hub, model_folder)
    home = local_folder(NAME)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub waits and tries again
    assert local_folder(NAME) == home
    assert unias.load(NAME, "cpu").products
    for ask in (lambda: local_folder("line-3/bolts"), lambda: push(model_folder, NAME)):
        with pytest.raises(
            MissingError, match=r"cannot be reached \(\w+\)\. Fetch it once where there is internet, or copy"
        ):
            ask()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.refuse = 403
    with pytest.raises(DataError, match=r"the Hub refuses access\. Log in"):
        push(model_folder, NAME)


def test_an_interrupted_fetch_is_no_model(hub: Hub, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(hub, model_folder, model_safetensors=None)
    with pytest.raises(DataError, match=r"has no model\.safetensors"):
        local_folder(NAME)


def test_changed_files_are_not_opened(hub: Hub, model_folder: Path) -> None:
    """The manifest's hashes are compared first: what else is wrong with the file does not matter."""
    filled(hub, model_folder, config_yaml=b"!!python/object/apply:os.system ['true']")
    with pytest.raises(DataError, match=r"config\.yaml: was changed since it was written"):
        unias.load(NAME, "cpu")


@pytest.mark.parametrize("name", ["model.bin", "weights.pt", "../config.yaml", "sub/config.yaml", "train.py"])
def test_other_kinds_of_files_are_refused(hub: Hub, model_folder: Path, name: str) -> None:
    manifest = json.loads((model_folder / "manifest.json").read_text("utf-8"))
    manifest["files"][name] = "0" * 64
    filled(hub, model_folder, manifest_json=json.dumps(manifest).encode())
    with pytest.raises(DataError, match="are safetensors, YAML, JSON and Markdown alone"):
        local_folder(NAME)
    assert resolved(hub) == ["manifest.json"]


def test_a_manifest_that_is_none(hub: Hub, model_folder: Path) -> None:
    filled(hub, model_folder, manifest_json=b"{}")
    with pytest.raises(DataError, match="is no model of unias"):
        local_folder(NAME)


def test_what_is_not_pushed(hub: Hub, model_folder: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(model_folder, tmp_path / "changed"))
    (changed / "config.yaml").write_text("size: 128\n", encoding="utf-8")
    with pytest.raises(DataError, match="was changed since"):
        push(changed, NAME)
    export = Path(shutil.copytree(model_folder, tmp_path / "export"))
    (export / "export.json").write_text("{}", encoding="utf-8")
    manifest = json.loads((export / "manifest.json").read_text("utf-8"))
    manifest["files"]["export.json"] = sha256(export / "export.json")
    (export / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UsageError, match="is an export"):
        push(export, NAME)
    with pytest.raises(DataError, match="no such model folder"):
        push(tmp_path / "none", NAME)
    with pytest.raises(UsageError, match="is no name on the Hub"):
        push(model_folder, "seals")
    assert hub.asked == []


def test_commands(cli: Any, hub: Hub, model_folder: Path, tiny_data: Path) -> None:
    answer = cli("push", model_folder, NAME, "--private", "--license", "mit", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out) == {"url": f"{hub.url}/{NAME}"}
    assert hub.repos[NAME].private
    photo = sorted(tiny_data.glob("*/test/hole/*.png"))[0]
    answer = cli("predict", f"hf://{NAME}", photo, "-o", "out", "-q")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("1 photos: ")
    assert cli("predict", "hf://line-3/bolts", photo, "-o", "out2", "-q").code == 3


def test_kept_photos_go_only_where_they_are_asked_for(hub: Hub, model_folder: Path) -> None:
    push(model_folder, NAME, photos=True)
    files = hub.repos[NAME].commits[hub.repos[NAME].refs["main"]]
    assert files["rehearsal.safetensors"] == (model_folder / "rehearsal.safetensors").read_bytes()
    assert files["manifest.json"] == (model_folder / "manifest.json").read_bytes()
    assert unias.load(NAME, device="cpu").products


@pytest.mark.parametrize("status", [None, 409, 500])
def test_what_the_hub_says_is_told(status: int | None) -> None:
    """A card that it does not take, a branch in the way, an error of its own: no matter of the network."""

    class AnswerError(Exception):
        response = SimpleNamespace(status_code=status)

    error = ValueError("Invalid metadata in README.md.") if status is None else AnswerError("Conflict: try again")
    found = _ours(error, HubName(NAME, None), "README.md")
    assert isinstance(found, DataError)
    assert str(error) in str(found)
    assert "cannot be reached" not in str(found)


def test_a_model_on_the_hub_is_changed_elsewhere(hub: Hub, model_folder: Path, tmp_path: Path, cli: Any) -> None:
    filled(hub, model_folder)
    answer = cli("calibrate", f"hf://{NAME}", "--false-alarms", 0.3, "-q")
    assert answer.code == 2
    assert "-o" in answer.err
    assert cli("calibrate", f"hf://{NAME}", "--false-alarms", 0.3, "--dry-run", "-q").code == 0
    product = unias.load(model_folder, device="cpu").products[0].name
    for command in (["calibrate", "--false-alarms", "0.3", "-q"], ["rename", f"{product}=bolt"]):
        name, *wishes = command
        made = tmp_path / name
        answer = cli(name, f"hf://{NAME}", *wishes, "-o", made)
        assert answer.code == 0, answer.err
        assert not any(file.is_symlink() for file in made.iterdir())
        assert len(unias.load(made, device="cpu").products) == 2
