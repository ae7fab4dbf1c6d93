"""`panoptic download` with failing servers, connections, disks and processes: clear errors, and it can resume."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from mirror_server import Mirror, big_val_archive
from panoptic_cli.commands.main import run

from panoptic_cli import console
from panoptic_cli.locks import folder_lock
from panoptic_cli.transfer.aria2c import find_aria2c

pytestmark = pytest.mark.skipif(find_aria2c() is None, reason="the program aria2c is not installed")
VAL_ZIP = "zips/val2017.zip"


def _arguments(mirror: Mirror, data: Path, *more: str) -> list[str]:
    manifest = str(mirror.root / "manifest.json")
    where = ["--base-url", mirror.url, "--manifest", manifest]
    return ["download", "--data-dir", str(data), "--split", "val", *where, *more]


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_requests_to_a_busy_server_are_repeated(mirror: Mirror, tmp_path: Path) -> None:
    mirror.busy[VAL_ZIP] = 2
    assert run(_arguments(mirror, tmp_path / "coco")) == 0
    assert len(list((tmp_path / "coco/val2017").iterdir())) == 3
    assert mirror.busy[VAL_ZIP] < 0  # it refused twice


def test_a_broken_connection_is_resumed(mirror: Mirror, tmp_path: Path) -> None:
    size = big_val_archive(mirror, 3 << 20)
    mirror.cut[VAL_ZIP] = 2
    assert run(_arguments(mirror, tmp_path / "coco")) == 0
    assert mirror.cut[VAL_ZIP] < 0
    assert len(list((tmp_path / "coco/val2017").iterdir())) == 3
    # aria2 requests whole pieces, so the broken one may be sent again, twice.
    assert mirror.bytes_sent(VAL_ZIP) <= size + 2 * (1 << 20)


def test_a_server_without_ranges_works(mirror: Mirror, tmp_path: Path) -> None:
    mirror.ranges = False
    assert run(_arguments(mirror, tmp_path / "coco")) == 0


def test_a_failing_server_is_named_with_a_hint(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.status[VAL_ZIP] = 500
    assert run(_arguments(mirror, tmp_path / "coco")) == 1
    error = _error(capsys)
    assert f"{mirror.url}{VAL_ZIP}" in error
    assert "500" in error
    assert "try again later" in error


def test_a_server_that_does_not_answer_is_an_error(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = _arguments(mirror, tmp_path / "coco")
    arguments[arguments.index(mirror.url)] = "http://127.0.0.1:9/"
    assert run(arguments) == 1
    assert "run the same command again to resume" in _error(capsys).lower()


@pytest.mark.slow
def test_progress_of_a_slow_server(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = big_val_archive(mirror, 6 << 20)
    mirror.bytes_per_second = 1_000_000  # for each connection
    monkeypatch.setattr(console, "_PLAIN_INTERVAL", 0.5)
    assert run([*_arguments(mirror, tmp_path / "coco"), "--connections", "1"]) == 0
    lines = re.findall(r"Downloading: (\d+)/(\d+) MB, ([\d.]+)/s, (\d+):(\d\d) left, (.*)", capsys.readouterr().err)
    assert len(lines) >= 4
    last = 0.0
    for done, total, rate, minutes, seconds, files in lines[1:]:  # the first estimate is too rough
        assert int(total) == round(size / 1e6)
        assert int(done) >= last
        last = int(done)
        # A sleep is never too short; on a busy machine it can take twice as long. Figures are in whole MB.
        assert 0.4 <= float(rate) <= 1.6
        left = int(minutes) * 60 + int(seconds)
        assert abs(left - (int(total) - int(done)) / float(rate)) <= 1
        assert "val2017.zip" in files


def test_an_archive_completed_just_before_a_kill_is_not_downloaded_again(mirror: Mirror, tmp_path: Path) -> None:
    part = tmp_path / "coco/zips/val2017.zip.part"
    part.parent.mkdir(parents=True)
    shutil.copy(mirror.root / VAL_ZIP, part)
    assert run(_arguments(mirror, tmp_path / "coco")) == 0
    assert mirror.bytes_sent(VAL_ZIP) == 0


def test_a_partial_file_of_full_length_is_downloaded_again(mirror: Mirror, tmp_path: Path) -> None:
    part = tmp_path / "coco/zips/val2017.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes((mirror.root / VAL_ZIP).stat().st_size))
    assert run(_arguments(mirror, tmp_path / "coco")) == 0
    assert mirror.bytes_sent(VAL_ZIP) == (mirror.root / VAL_ZIP).stat().st_size


def test_two_downloads_do_not_share_a_folder(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "coco"
    data.mkdir()
    with folder_lock(data, "panoptic download", "wait"):
        assert run(_arguments(mirror, data)) == 1
    assert "Another panoptic download" in _error(capsys)
    assert mirror.sent == []
    assert run(_arguments(mirror, data)) == 0


def _in_small_disk(folder: Path, megabytes: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs panoptic with `folder` on a separate small disk that exists only for this process."""
    mount = f"mount -t tmpfs -o size={megabytes}m tmpfs {folder}"
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, mount], capture_output=True).returncode:
        pytest.skip("this system cannot mount a private tmpfs")
    script = f'{mount} && cp -r {folder}.before/. {folder} && "$@"; code=$?; ls -a {folder}/*; exit $code'
    command = [*namespace, script, "sh", sys.executable, "-m", "panoptic_cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_disk_fills_up_during_the_download(mirror: Mirror, tmp_path: Path) -> None:
    big_val_archive(mirror, 6 << 20)
    _forget_sizes(mirror)  # otherwise the check before the download fails
    data = tmp_path / "coco"
    data.mkdir()
    (tmp_path / "coco.before").mkdir()
    process = _in_small_disk(data, 3, _arguments(mirror, data))
    assert process.returncode == 1, process.stderr
    assert "free space, then run the same command again" in " ".join(process.stderr.split()).lower()
    assert "Traceback" not in process.stderr
    assert "val2017.zip.part" in process.stdout  # the downloaded part is kept


def test_a_full_disk_is_reported_before_extraction(mirror: Mirror, tmp_path: Path) -> None:
    with zipfile.ZipFile(mirror.root / VAL_ZIP, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("val2017/0.jpg", bytes(8 << 20))
    _forget_sizes(mirror)
    data = tmp_path / "coco"
    data.mkdir()
    (tmp_path / "coco.before").mkdir()
    process = _in_small_disk(data, 3, _arguments(mirror, data))
    assert process.returncode == 1, process.stderr
    error = " ".join(process.stderr.split())
    assert "Extracting val2017.zip needs about 8.4 MB" in error
    assert "only 3" in error
    assert "val2017.zip" in process.stdout
    assert ".0.jpg.partial" not in process.stdout


def _forget_sizes(mirror: Mirror) -> None:
    file = mirror.root / "manifest.json"
    manifest = json.loads(file.read_text())
    for archive in manifest["archives"]:
        archive.update(size=None, sha256=None)
    file.write_text(json.dumps(manifest))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9")
def test_a_killed_extraction_is_resumed(mirror: Mirror, tmp_path: Path) -> None:
    count, data = 2000, tmp_path / "coco"
    names = [f"{number:012d}.jpg" for number in range(count)]
    with zipfile.ZipFile(mirror.root / VAL_ZIP, "w") as archive:
        for name in names:
            archive.writestr(f"val2017/{name}", name.encode() * 50)
    _forget_sizes(mirror)
    process = subprocess.Popen([sys.executable, "-m", "panoptic_cli", *_arguments(mirror, data)], stderr=-3)
    staging = data / ".val2017.partial"
    deadline = time.monotonic() + 60
    while not (staging.is_dir() and len(os.listdir(staging)) > count // 10):
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.kill()
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in staging.glob("[0-9]*.jpg")}
    assert not (data / "val2017").exists()
    (staging / f".{names[-1]}.partial").write_bytes(b"half")  # as after a kill at the wrong moment
    sent = len(mirror.sent)
    assert run(_arguments(mirror, data)) == 0
    assert len(mirror.sent) == sent  # the archives were already complete
    assert sorted(os.listdir(data / "val2017")) == names
    for name in names:
        assert (data / "val2017" / name).read_bytes() == name.encode() * 50
    after = {name: (data / "val2017" / name).stat().st_mtime_ns for name in before}
    assert 0 < len(before) < count
    assert after == before


def _processes_with(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(int(entry.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL", "SIGKILL of both"])
def test_an_interrupted_download_is_resumed_and_leaves_no_daemon(mirror: Mirror, tmp_path: Path, end: str) -> None:
    data, scratch = tmp_path / "coco", tmp_path / "scratch"
    scratch.mkdir()
    size = big_val_archive(mirror, 8 << 20)
    mirror.bytes_per_second = 300_000  # 8 connections: 2.4 MB/s
    command = [sys.executable, "-m", "panoptic_cli", *_arguments(mirror, data)]
    environment = os.environ | {"TMPDIR": str(scratch)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    part = data / "zips/val2017.zip.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_blocks * 512 > size // 2):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    daemons = _processes_with(str(scratch))
    assert len(daemons) == 1
    process.send_signal(getattr(signal, end.split()[0]))
    if end == "SIGKILL of both":
        os.kill(daemons[0], signal.SIGKILL)
    error = " ".join(process.communicate(timeout=30)[1].split())
    if "SIGKILL" in end:
        assert process.returncode == -9
    else:
        assert process.returncode == 130
        assert re.search(rf"stopped\. Kept in {data}: [\d.]+ MB of 8\.4 MB of zips/val2017\.zip", error)
        assert "same command" in error
        assert list(scratch.iterdir()) == []  # the file with the daemon's secret is gone too
    deadline = time.monotonic() + 15  # aria2c checks for its parent every second
    while _processes_with(str(scratch)):
        assert time.monotonic() < deadline, "the daemon is still running"
        time.sleep(0.1)
    assert not (data / "val2017").exists()

    # With a limit: otherwise the mirror would fill the sockets' buffers with bytes that nobody reads.
    mirror.bytes_per_second = 2_000_000
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    # Some bytes may be sent twice: those in transit when the connections closed, 128 KiB for each of 8 connections,
    # twice; and after a kill of aria2c those of the last second, which it could not save in its list.
    lost = 2 * 2_400_000 if end == "SIGKILL of both" else 0
    assert mirror.bytes_sent(VAL_ZIP) < size + 2 * 8 * (128 << 10) + lost
    assert (data / "val2017/1.jpg").read_bytes() == np.random.default_rng(1).bytes((8 << 20) // 3)
