"""Repositories of Hugging Face, fetched by huggingface_hub from a local server into its own cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from hub_server import COMMIT, HubServer, hub_server
from huggingface_hub import constants

from panoptic_cli.coco.official_categories import coco_panoptic_categories
from panoptic_cli.errors import TransferError, UsageError
from panoptic_cli.weights import hub as module
from panoptic_cli.weights.copies import describe_caches, describe_copy
from panoptic_cli.weights.published import published_checkpoints
from panoptic_cli.weights.repository import Repository, parse_repository
from panoptic_cli.weights.sources import find_source

NAME = "someone/a-model_1.0"
FILES = {
    "config.json": json.dumps({"model_type": "eomt"}).encode(),
    "model.safetensors": np.random.default_rng(0).bytes(3_000_000),
    "pytorch_model.bin": b"a pickle",
    "README.md": b"text",
}
WANTED = {"config.json", "model.safetensors"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub with one repository, and an empty cache. The library reads its variables when it is imported."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with hub_server(NAME, dict(FILES)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield server


def fetched(revision: str | None = None) -> Path:
    """Fetches the repository; returns the folder, after comparing every byte."""
    folder = Path(module.fetch_repository(Repository(NAME, revision)))
    assert {path.name for path in folder.iterdir()} == WANTED
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {name: FILES[name] for name in WANTED}
    return folder


def fails(repository: Repository | None = None) -> str:
    with pytest.raises(TransferError) as caught:
        module.fetch_repository(repository or Repository(NAME))
    return str(caught.value)


@pytest.mark.parametrize(
    ("address", "name", "revision"),
    [
        ("hf://a/b", "a/b", None),
        ("hf://tue-mps/coco_panoptic_eomt_large_640@main", "tue-mps/coco_panoptic_eomt_large_640", "main"),
        ("hf://a/b.c@refs/pr/1", "a/b.c", "refs/pr/1"),
    ],
)
def test_addresses(address: str, name: str, revision: str | None) -> None:
    assert parse_repository(address) == Repository(name, revision)
    assert str(parse_repository(address)) == address


@pytest.mark.parametrize("address", ["hf://a", "hf://a/b/c", "hf://a/b@", "hf://a/b c"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(UsageError, match="hf://OWNER/REPO"):
        find_source(address)


def test_a_repository_is_kept_in_the_librarys_own_cache(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fetched()
    assert folder == module.hub_cache_folder() / "models--someone--a-model_1.0/snapshots" / COMMIT
    found = huggingface_hub.try_to_load_from_cache(NAME, "model.safetensors")
    assert found == str(folder / "model.safetensors")
    assert [name for name, _ in hub.contents_sent()] == sorted(WANTED)  # no pickle
    told = capsys.readouterr().err
    assert "Fetching hf://someone/a-model_1.0 (3.0 MB) into" in told
    assert "3/3 MB" in told
    hub.seen.clear()
    assert fetched() == folder
    assert hub.contents_sent() == []
    assert fetched("v1") == fetched(COMMIT) == folder
    assert module.cached_bytes(Repository(NAME)) == sum(len(FILES[name]) for name in WANTED)


def test_the_description_comes_without_the_weights(hub: HubServer) -> None:
    folder = Path(module.fetch_repository(Repository(NAME), description_only=True))
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert module.cached_folder(Repository(NAME)) is None
    assert fetched() == folder
    source = find_source(f"hf://{NAME}")
    assert (source.description(), source.fetch(), source.cached()) == (str(folder),) * 3


def test_without_a_network_the_copy_is_used(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetched()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetched() == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetched() == folder
    assert module.fetch_repository(Repository(NAME), prefer_cache=True) == str(folder)
    (folder / "model.safetensors").unlink()
    told = fails()
    assert f"hf://{NAME} is not in the cache, and http://127.0.0.1:9 cannot be reached: HF_HUB_OFFLINE is set." in told
    assert f"Unset HF_HUB_OFFLINE. Without a network, copy {module.hub_cache_folder()} from a machine" in told


def test_with_prefer_cache_the_hub_is_not_asked(hub: HubServer) -> None:
    fetched()
    hub.seen.clear()
    module.fetch_repository(Repository(NAME), prefer_cache=True)
    assert hub.seen == []


def test_without_a_network_and_a_copy(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    told = fails()
    assert "is not in the cache, and http://127.0.0.1:9 cannot be reached: " in told
    assert "Connection refused" in told
    assert "Check the network." in told
    assert f"give a folder with the files of http://127.0.0.1:9/{NAME}" in told


def test_a_cut_connection_does_not_matter(hub: HubServer) -> None:
    hub.cut["model.safetensors"] = 1
    fetched()
    assert [name for name, _ in hub.contents_sent()] == ["config.json", "model.safetensors", "model.safetensors"]


@pytest.mark.parametrize("name", sorted(WANTED))
def test_damaged_bytes_do_not_stay_in_the_cache(hub: HubServer, name: str) -> None:
    hub.damage.add(name)
    assert f"{name} of hf://{NAME} does not have the checksum" in fails()
    assert module.cached_folder(Repository(NAME)) is None
    hub.damage.clear()
    fetched()


def test_gated_private_and_unknown_repositories_have_their_own_messages(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "hf://someone/nothing does not exist, or it is private" in fails(Repository("someone/nothing"))
    assert "someone/a-model_1.0 has no revision 'v9'. See http://" in fails(Repository(NAME, "v9"))
    hub.token = "hf_secret"
    told = fails()
    assert "private and may not be read with your token. Check the name. Log in with 'hf auth login'" in told
    hub.gated = True
    told = fails()
    assert f"hf://{NAME} is gated: its owner must grant you access. Ask for it at {hub.url}/{NAME}." in told
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetched()


def test_a_repository_of_something_else(hub: HubServer) -> None:
    del hub.files["model.safetensors"]
    assert "is not in Hugging Face's layout: it has no config.json or no model.safetensors" in fails()


def test_weights_in_several_files(hub: HubServer) -> None:
    """Another program may have fetched some of them one by one; the library cannot tell that others are missing."""
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    del hub.files["model.safetensors"]
    hub.files |= dict.fromkeys(names, b"weights")
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": names[0], "b": names[1]}}).encode()
    for name in ("config.json", "model.safetensors.index.json", names[0]):
        huggingface_hub.hf_hub_download(NAME, name)
    assert module.cached_folder(Repository(NAME)) is None
    folder = Path(module.fetch_repository(Repository(NAME), prefer_cache=True))
    assert {path.name for path in folder.glob("*.safetensors")} == set(names)
    assert module.cached_folder(Repository(NAME)) == str(folder)


def test_a_small_disk_is_told_before(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_space", lambda path: 1000)
    assert "has 3.0 MB, but only 1.0 kB are free" in fails()
    assert "model.safetensors" not in dict(hub.contents_sent())


def test_a_published_name_is_a_repository(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.name = "tue-mps/coco_panoptic_eomt_small_640_2x"
    source = find_source("eomt_small_640")
    assert source.cached() is None
    folder = source.fetch()
    assert {path.name for path in Path(folder).iterdir()} == WANTED
    hub.seen.clear()
    assert source.fetch() == source.cached() == folder
    assert hub.seen == []  # once fetched, no network is used
    described = describe_copy(published_checkpoints()["eomt_small_640"])
    assert (described.place, described.bytes) == (folder, sum(len(FILES[name]) for name in WANTED))
    assert describe_caches()["hugging_face_bytes"] == described.bytes
    assert find_source("tue-mps/coco_panoptic_eomt_small_640_2x").fetch() == folder


@pytest.mark.slow
@pytest.mark.shared
def test_an_eomt_loads_by_its_name(hub: HubServer, tmp_path: Path) -> None:
    """The weights of the published architecture, with other values, come through the Hub's protocol into a network."""
    from eomt_checkpoints import write_checkpoint

    from panoptic_cli import models, weights
    from panoptic_cli.runs.model_source import find_model

    write_checkpoint("small", tmp_path / "folder")
    hub.name = "tue-mps/coco_panoptic_eomt_small_640_2x"
    hub.files = {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    source = find_model(None, "eomt_small_640")
    assert source.table == coco_panoptic_categories()
    network = models.create_network(source.experiment, source.table)
    loaded = weights.load_weights(network, source.fetch())
    assert loaded.parameters == network.count_params() == published_checkpoints()["eomt_small_640"].parameters


def _script(hub: HubServer, cache: Path, code: str, **variables: str) -> subprocess.Popen[str]:
    """Runs code as a user's process: only with the library's variables."""
    start = "import sys; from panoptic_cli.weights.sources import find_source; from panoptic_cli.errors import *"
    return subprocess.Popen(
        [sys.executable, "-c", f"{start}\n{code}"],
        env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "COLUMNS": "300", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


FETCH = f"try: print(find_source('hf://{NAME}').fetch())\nexcept PanopticError as error: sys.exit(str(error))"


def test_of_two_processes_one_fetches_and_the_librarys_variables_are_honoured(hub: HubServer, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    place = tmp_path / "home"
    processes = [_script(hub, place, FETCH, HF_TOKEN="hf_secret") for _ in range(2)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    (folder,) = {out.strip() for out, _ in results}
    assert folder == str(place / "hub/models--someone--a-model_1.0/snapshots" / COMMIT)
    assert [name for name, _ in hub.contents_sent()] == sorted(WANTED)
    hub.seen.clear()
    offline = _script(hub, place, FETCH, HF_HUB_OFFLINE="1")
    out, _ = offline.communicate(timeout=60)
    assert out.strip() == folder
    assert hub.seen == []


def test_a_full_disk(hub: HubServer, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))"
    process = _script(hub, tmp_path / "home", f"{limit}\n{FETCH}")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cannot be written: File too large. Free some space, or choose another folder with HF_HOME." in told
    assert "Traceback" not in told
    assert not list((tmp_path / "home").rglob("model.safetensors"))
    assert not list((tmp_path / "home").rglob("*.incomplete"))
