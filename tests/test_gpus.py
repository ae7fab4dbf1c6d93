"""The machine's NVIDIA GPUs are found, and one reason is given why TensorFlow cannot use them."""

from __future__ import annotations

from pathlib import Path

import pytest

from panoptic_cli import gpus
from panoptic_cli.gpus import Build, Card

CUDA = Build("2.21.0", "12.5.1", "9")
TWO = [Card("NVIDIA L4", "550.54.15", 24 * 2**30)] * 2


@pytest.fixture(autouse=True)
def _bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, no driver, nothing hidden, and no CUDA library, whatever this machine has."""
    monkeypatch.setattr(gpus, "_PCI_DEVICES", tmp_path / "pci")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("ctypes.CDLL", _no_library)


def _no_library(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")


def _driver(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def _on_the_bus(folder: Path, name: str, vendor: str, kind: str) -> None:
    device = folder / "pci" / name
    device.mkdir(parents=True)
    (device / "vendor").write_text(vendor + "\n")
    (device / "class").write_text(kind + "\n")


def test_the_driver_names_its_gpus(tmp_path: Path) -> None:
    _driver(tmp_path, "echo 'NVIDIA L4, 550.54.15, 23034'; echo 'NVIDIA GH200 480GB, 550.54.15, [N/A]'")
    assert gpus.find_cards() == [
        Card("NVIDIA L4", "550.54.15", 23034 * 2**20),
        Card("NVIDIA GH200 480GB", "550.54.15", None),
    ]


@pytest.mark.parametrize(
    "script", ["echo 'Failed to initialize NVML'; exit 9", "echo 'No devices were found'", "sleep 9"]
)
def test_without_a_driver_the_bus_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(gpus, "_TIMEOUT", 0.2)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    _driver(tmp_path, script)
    assert gpus.find_cards() == []
    _on_the_bus(tmp_path, "0000:01:00.0", "0x10de", "0x030200")
    _on_the_bus(tmp_path, "0000:01:00.1", "0x10de", "0x040300")  # the sound of the same card
    _on_the_bus(tmp_path, "0000:02:00.0", "0x1002", "0x030000")  # another vendor's
    assert gpus.find_cards() == [Card("NVIDIA GPU")]


@pytest.mark.parametrize(
    ("build", "cards", "reason", "remedy"),
    [
        (CUDA, [], "no NVIDIA GPU", "Omit --gpus"),
        (Build("2.20.0"), TWO, "2.20.0 is built without CUDA", "panoptic-cli[gpu]"),
        (CUDA, [Card("NVIDIA GPU")], "no NVIDIA driver answers", "Install the driver"),
        (CUDA, [Card("NVIDIA T4", "470.82.1")], "470.82.1 is too old for CUDA 12.5.1", "525.60 or newer"),
        (CUDA, TWO, "does not find libcudart.so.12, libcublas.so.12 and 5 more", "panoptic-cli[gpu]"),
        (Build("2.30.0", "99.0", None), TWO, "does not say why", "PANOPTIC_DEBUG=1"),
    ],
)
def test_one_reason_is_given_with_a_remedy(build: Build, cards: list[Card], reason: str, remedy: str) -> None:
    why, what = gpus.why_unusable(build, cards)
    assert reason in why
    assert remedy in what


@pytest.mark.parametrize(("value", "hidden"), [("", True), ("-1", True), ("0,1", False), ("GPU-8a1", False)])
def test_the_variable_that_hides_gpus(monkeypatch: pytest.MonkeyPatch, value: str, hidden: bool) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert gpus.hidden() == hidden
    assert ("hides all GPUs" in gpus.why_unusable(CUDA, TWO)[0]) == hidden


def test_a_library_is_found_in_nvidias_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    folder = tmp_path / "cudnn" / "lib"
    folder.mkdir(parents=True)
    (folder / "libcudnn.so.9").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: Spec if name == "nvidia" else None)
    assert "libcudnn.so.9" not in gpus.missing_libraries(CUDA)
    assert "libcufft.so.11" in gpus.missing_libraries(CUDA)


def test_a_library_is_found_on_the_loaders_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: None if name == "libcufft.so.11" else _no_library(name))
    missing = gpus.missing_libraries(CUDA)
    assert "libcufft.so.11" not in missing
    assert len(missing) == 6


def test_other_systems_have_no_such_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert gpus.missing_libraries(CUDA) == []
    monkeypatch.setattr("sys.platform", "win32")
    assert gpus.why_unusable(CUDA, TWO)[1] == "Use WSL 2."


def test_a_sentence_counts_and_names() -> None:
    assert gpus.count_and_names(TWO) == "2 GPUs (NVIDIA L4)"
    assert gpus.count_and_names([Card("A"), Card("B")]) == "2 GPUs (A, B)"
    assert gpus.count_and_names(TWO[:1]) == "1 GPU (NVIDIA L4)"
