"""Checkpoints arrive in the cache whole or not at all, through cuts, damage, full disks and other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_proxy import Request
from garden import Garden

from panoptic_cli.errors import DataError, TransferError
from panoptic_cli.weights import cache as module
from panoptic_cli.weights.published import PublishedFile, published_checkpoints


def fetched(garden: Garden) -> str:
    """Fetches the checkpoint; returns its prefix, after comparing every byte."""
    prefix = module.fetch_published(garden.published)
    folder = Path(prefix).parent
    assert folder == module.cache_folder() / garden.published.name
    assert Path(prefix).name == "ckpt-22500"
    assert {path.name for path in folder.iterdir()} == {*garden.files, "source.json"}
    assert {name: (folder / name).read_bytes() for name in garden.files} == garden.files
    assert module.cached_bytes(garden.published) > 3_000_000
    return prefix


def test_a_fetched_checkpoint_is_used_without_a_network(
    garden: Garden, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert module.cached_prefix(garden.published) is None
    prefix = fetched(garden)
    told = capsys.readouterr().err
    assert "Fetching panoptic_fpn_r50_1x (3.0 MB) from gs://tf_model_garden/vision/panoptic/" in told
    assert "3/3 MB" in told
    assert [path.name for path in cache.iterdir() if path.is_dir()] == ["panoptic_fpn_r50_1x"]
    assert {r.headers.get("authorization") for r in garden.proxy.seen} == {None}  # no login
    seen = len(garden.proxy.seen)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    assert module.fetch_published(garden.published) == prefix
    assert len(garden.proxy.seen) == seen


def test_the_address_may_be_a_prefix(garden: Garden) -> None:
    place = garden.published.source + "/ckpt-22500"
    prefix = module.fetch_published(garden.published.model_copy(update={"source": place}))
    assert Path(f"{prefix}.index").read_bytes() == garden.files["ckpt-22500.index"]


def test_without_a_state_file_the_last_checkpoint_is_meant(garden: Garden) -> None:
    garden.client.bucket("tf_model_garden").blob(garden.published.source.partition("den/")[2] + "/checkpoint").delete()
    assert Path(module.fetch_published(garden.published)).name == "ckpt-30000"


@pytest.mark.parametrize("status", [401, 403])
def test_a_bucket_that_does_not_list_its_objects(garden: Garden, status: int) -> None:
    def answer(request: Request) -> int | None:
        return status if "prefix=" in request.path else None

    garden.proxy.answer = answer
    resnet = published_checkpoints()["resnet50_imagenet"]
    garden.client.create_bucket("cloud-tpu-checkpoints")
    place = garden.client.bucket("cloud-tpu-checkpoints")
    for file in resnet.files:
        place.blob(f"vision-2.0/resnet50_imagenet/{file.name}").upload_from_string(file.name.encode())
    prefix = module.fetch_published(resnet)  # its files are in the table
    assert Path(f"{prefix}.index").read_bytes() == b"ckpt-28080.index"
    garden.put("/checkpoint", b'model_checkpoint_path: "ckpt-30000"\n')  # with one data file, which can be guessed
    assert Path(module.fetch_published(garden.published)).name == "ckpt-30000"


def test_a_cut_connection_is_resumed_where_it_was_cut(garden: Garden) -> None:
    cut: list[Request] = []

    def answer(request: Request) -> str | None:
        if "data-00000" in request.path and "alt=media" in request.path and len(cut) < 2:
            cut.append(request)
            return "cut"
        return None

    garden.proxy.answer = answer
    fetched(garden)
    ranges = [asked for asked in garden.contents_asked_for() if asked not in ("", "bytes=0-")]
    assert ranges == ["bytes=1500000-", "bytes=2250000-"]


def test_an_interrupted_fetch_is_continued_by_the_next(garden: Garden, cache: Path) -> None:
    def answer(request: Request) -> int | str | None:
        if "data-00000" not in request.path or "alt=media" not in request.path:
            return None
        return 403 if request.headers.get("range", "") > "bytes=1" else "cut"

    garden.proxy.answer = answer
    with pytest.raises(TransferError):
        module.fetch_published(garden.published)
    assert not (cache / garden.published.name).exists()
    assert (cache / f".{garden.published.name}.partial/ckpt-22500.data-00000-of-00002.part").stat().st_size == 1_500_000
    garden.proxy.answer = lambda request: None
    garden.proxy.seen.clear()
    fetched(garden)
    assert "bytes=1500000-" in garden.contents_asked_for()
    assert not (cache / f".{garden.published.name}.partial").exists()


def test_damaged_bytes_are_fetched_again(garden: Garden) -> None:
    damaged: list[Request] = []

    def answer(request: Request) -> str | None:
        if "data-00000" in request.path and "alt=media" in request.path and not damaged:
            damaged.append(request)
            return "damage"
        return None

    garden.proxy.answer = answer
    fetched(garden)
    assert damaged


def test_bytes_that_stay_damaged_leave_nothing(garden: Garden, cache: Path) -> None:
    garden.proxy.answer = lambda request: "damage" if "data-00000" in request.path else None
    with pytest.raises(TransferError, match="does not have the object's size and CRC32C"):
        module.fetch_published(garden.published)
    assert not (cache / garden.published.name).exists()
    assert module.cached_prefix(garden.published) is None
    assert not list(cache.rglob("*.part"))


def test_a_source_whose_content_has_changed_is_refused(garden: Garden, cache: Path) -> None:
    files = (PublishedFile(name="ckpt-22500.index", bytes=900, sha256="0" * 64),)
    with pytest.raises(TransferError, match=r"ckpt-22500.index has another SHA-256 than the published"):
        module.fetch_published(garden.published.model_copy(update={"files": files}))
    assert not [path for path in cache.rglob("*") if path.suffix != ".lock"]


def test_a_source_without_a_whole_checkpoint(garden: Garden) -> None:
    garden.client.bucket("tf_model_garden").blob(
        garden.published.source.partition("den/")[2] + "/ckpt-22500.data-00001-of-00002"
    ).delete()
    with pytest.raises(TransferError, match="There is no whole checkpoint at gs://"):
        module.fetch_published(garden.published)


FETCH = "import sys; from panoptic_cli.commands.main import run; from panoptic_cli.weights.sources import find_source"


def script(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"{FETCH}\n{code}"],
        env=os.environ | {"COLUMNS": "300"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_full_disk_leaves_nothing(garden: Garden, cache: Path) -> None:
    """A limit on the size of files fails like a full disk, in the middle of a write."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))"
    code = f"{limit}\nfrom panoptic_cli.errors import PanopticError\ntry: find_source('panoptic_fpn_r50_1x').fetch()"
    process = script(f"{code}\nexcept PanopticError as error: sys.exit(str(error))")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "data-00000-of-00002.part cannot be written: File too large. Free some space, or choose another" in told
    assert "Traceback" not in told
    assert not [path for path in cache.rglob("*") if path.suffix != ".lock"]
    fetched(garden)


def test_a_disk_that_is_too_small_is_told_before(garden: Garden, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_space", lambda path: 1_000_000)
    with pytest.raises(TransferError, match=r"has 3.0 MB, but only 1.0 MB are free in .*PANOPTIC_CACHE"):
        module.fetch_published(garden.published)
    assert garden.contents_asked_for() == [""]  # the state file


def test_of_two_processes_one_fetches(garden: Garden) -> None:
    first: list[Request] = []

    def slow(request: Request) -> None:
        import time

        if "data-00000" in request.path and "alt=media" in request.path:
            first.append(request)
            time.sleep(2)  # so that the second process comes meanwhile

    garden.proxy.answer = slow
    processes = [script("print(find_source('panoptic_fpn_r50_1x').fetch())") for _ in range(2)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert len(first) == 1
    assert sum("Another process is fetching panoptic_fpn_r50_1x" in err for _, err in results) == 1
    fetched(garden)


def test_offline_the_error_says_where_to_put_a_copy(cache: Path) -> None:
    published = published_checkpoints()["panoptic_fpn_r50_3x"]
    with pytest.raises(TransferError) as caught:
        module.fetch_published(published)
    told = str(caught.value)
    assert "panoptic_fpn_r50_3x is not in the cache, and gs://tf_model_garden/vision/panoptic/panoptic_fpn/" in told
    assert "cannot be fetched. Cloud Storage does not answer. Check the network" in told
    assert f"put a copy of its files (*.index, *.data-*) into {cache}/panoptic_fpn_r50_3x." in told
    place = cache / "panoptic_fpn_r50_3x"  # as it says
    place.mkdir()
    (place / "ckpt-7.index").write_bytes(b"index")
    (place / "ckpt-7.data-00000-of-00002").write_bytes(b"data")
    assert module.cached_prefix(published) is None  # one file is missing
    (place / "ckpt-7.data-00001-of-00002").write_bytes(b"data")
    assert module.fetch_published(published) == str(place / "ckpt-7")


def test_a_copy_that_was_cut_later_is_fetched_again(garden: Garden, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(fetched(garden) + ".data-00000-of-00002")
    data.write_bytes(data.read_bytes()[:1000])
    capsys.readouterr()
    fetched(garden)
    assert "or not whole: fetching it again" in " ".join(capsys.readouterr().err.split())


def test_a_cache_that_cannot_be_written(cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(DataError, match=r"cannot be written: .*PANOPTIC_CACHE chooses another folder"):
        module.fetch_published(published_checkpoints()["panoptic_fpn_r50_3x"])


def test_the_default_is_the_platforms_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PANOPTIC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert module.cache_folder() == tmp_path / "panoptic"
    assert module.cache_bytes() == 0
