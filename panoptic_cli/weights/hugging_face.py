"""Checkpoints in Hugging Face's layout: a folder with config.json and its weights in one or more safetensors files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes  # noqa: F401 - makes NumPy know bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from panoptic_cli import storage
from panoptic_cli.config.hugging_face import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE, read_config
from panoptic_cli.errors import RunError, listed, one_line, summarize
from panoptic_cli.models.network import PanopticNetwork
from panoptic_cli.models.stored import StoredForm, StoredNetwork
from panoptic_cli.weights.fitting import Axes, Shape, assign_one, first_that_fits, fit, missing_backbone
from panoptic_cli.weights.initial import backbone_paths
from panoptic_cli.weights.loaded import Loaded

_DTYPES = ("F64", "F32", "F16", "BF16")
_COPY_AGAIN = "It may be incomplete or damaged: copy or download the folder again."
# Pages of a mapped file count as memory of this process until it is closed.
_MAPPED_BYTES = 64 << 20


def load_hugging_face(network: PanopticNetwork, folder: str, *, allow_backbone_only: bool = False) -> Loaded:
    """Loads a folder's weights into the network. Nothing changes unless everything fits.

    Args:
        network: the built network.
        folder: the folder.
        allow_backbone_only: whether to accept weights of the backbone alone.

    Raises:
        RunError: the folder cannot be read or is of another kind, or tensors are missing, unexpected or of another
            shape or type; lists all of them.
    """
    stored = _describe(network, folder)
    if stored.backbone_only and not allow_backbone_only:
        raise RunError(
            f"{folder} has the weights of a backbone alone.",
            "To train from them, use panoptic train --init-checkpoint.",
        )
    tensors = _Tensors(folder)
    forms = _match(stored, tensors, folder)
    parameters = 0
    for (variable, _), form in zip(stored.variables, forms, strict=True):
        variable.assign(_value(form, tensors, folder))
        parameters += int(np.prod(variable.shape))
    return Loaded(folder, len(forms), parameters, stored.backbone_only, step=None)


def initialize_from_hugging_face(
    network: PanopticNetwork, folder: str, known: Sequence[Axes], *, strict: bool = False
) -> Loaded:
    """Loads what fits of a folder's weights, or its backbone if it has no other.

    Args:
        network: the built network.
        folder: the folder.
        known: class axes that the folder's network may have, by our variables' paths.
        strict: whether everything has to fit.

    Raises:
        RunError: the folder cannot be read or is of another kind, or the backbone does not fit; lists all tensors that
            do not.
    """
    stored = _describe(network, folder)
    if strict or stored.backbone_only:
        return load_hugging_face(network, folder, allow_backbone_only=not strict)
    tensors, our_axes = _Tensors(folder), network.class_axes()
    variables = {variable.path: variable for variable, _ in stored.variables}
    forms = {variable.path: _form(forms, tensors) for variable, forms in stored.variables}
    used = {tensor.name for form in forms.values() for tensor in form.tensors} | stored.ignored
    shapes: dict[str, Shape] = {}
    unusable: dict[str, str] = {}
    for path, form in forms.items():
        problems = list(_problems(form, tensors))
        if not problems:
            shapes[path] = tuple(variables[path].shape)
        elif path in our_axes and all(tensor.name in tensors.shapes for tensor in form.tensors):
            shapes[path] = _value(form, tensors, folder).shape  # of as many classes as it has
        else:
            unusable[path] = f"does not fit: {problems[0]}"
    ours = {path: tuple(variable.shape) for path, variable in variables.items()}
    unused = sorted(tensors.shapes.keys() - used)
    found = fit(ours, shapes, our_axes, first_that_fits(known, shapes), unused, unusable)
    if wrong := missing_backbone(found, backbone_paths(network)):
        raise _misfit(folder, wrong)
    # One at a time, because networks may be as large as half of the memory.
    parameters = sum(
        assign_one(variables[path], _value(forms[path], tensors, folder), found.rows.get(path))
        for path in (*found.whole, *found.rows)
    )
    return Loaded(folder, len(found.whole) + len(found.rows), parameters, False, step=None, fit=found)


def _describe(network: PanopticNetwork, folder: str) -> StoredNetwork:
    """Returns the variables that a folder should have by its config.json.

    Raises:
        RunError: it cannot be read, or is of another kind than the network.
    """
    if storage.is_remote(folder):
        raise RunError(f"{folder} must be a local folder, because its files are mapped into memory.", "Copy it first.")
    config = read_config(folder)
    if config is None:
        raise RunError(f"{folder} has no {CONFIG_FILE}.", _COPY_AGAIN)
    return network.hugging_face_variables(config, f"{folder}/{CONFIG_FILE}")


def _value(form: StoredForm, tensors: _Tensors, folder: str) -> np.ndarray:
    """Returns the value of a variable."""
    try:
        return form.combine(*(tensors.read(tensor.name) for tensor in form.tensors))
    except ValueError as error:
        raise RunError(f"{form.tensors[0].name} in {folder} does not fit the network: {one_line(error)}.") from None


def _form(forms: Sequence[StoredForm], tensors: _Tensors) -> StoredForm:
    """Returns the form that is there; of one that is incomplete, the missing tensors are told."""
    return max(forms, key=lambda form: sum(tensor.name in tensors.shapes for tensor in form.tensors))


def _misfit(folder: str, problems: list[str]) -> RunError:
    return RunError(
        f"The weights in {folder} do not fit the configured network: {summarize(problems, len(problems))}.",
        "Check the sizes and the number of classes (--set task.model...).",
    )


def _match(stored: StoredNetwork, tensors: _Tensors, folder: str) -> list[StoredForm]:
    """Chooses the form of every variable.

    Raises:
        RunError: tensors do not fit.
    """
    problems: list[str] = []
    chosen: list[StoredForm] = []
    used = set(stored.ignored)
    for _, forms in stored.variables:
        form = _form(forms, tensors)
        chosen.append(form)
        used.update(tensor.name for tensor in form.tensors)
        problems += _problems(form, tensors)
    problems += [f"{name} is only in the folder" for name in sorted(tensors.shapes.keys() - used)]
    problems = list(dict.fromkeys(problems))  # several variables may be parts of one tensor
    if problems:
        raise _misfit(folder, problems)
    return chosen


def _problems(form: StoredForm, tensors: _Tensors) -> Iterator[str]:
    for name, expected in form.tensors:
        shape = tensors.shapes.get(name)
        if shape is None:
            yield f"{name} is not in the folder"
        elif len(shape) != len(expected) or any(b not in (None, a) for a, b in zip(shape, expected, strict=True)):
            wanted = ", ".join("any" if side is None else str(side) for side in expected)
            yield f"{name} has shape {list(shape)} in the folder, not [{wanted}]"
        elif tensors.dtypes[name] not in _DTYPES:
            yield f"{name} is of type {tensors.dtypes[name]}, not one of {listed(_DTYPES)}"


class _Tensors:
    """The tensors in a folder.

    Attributes:
        shapes: the shape of each tensor.
        dtypes: its type, in safetensors' names.
    """

    def __init__(self, folder: str) -> None:
        self._files = dict(_locate(folder))
        self._path: str | None = None
        self._opened: Any = None
        self._read_bytes = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        missing = []
        for path in sorted(set(self._files.values())):
            opened = self._open(path)
            names = set(opened.keys())
            missing += sorted(name for name, file in self._files.items() if file == path and name not in names)
            for name in names & self._files.keys():
                part = opened.get_slice(name)
                self.shapes[name], self.dtypes[name] = tuple(part.get_shape()), part.get_dtype()
        if missing:
            raise RunError(f"{folder}/{INDEX_FILE} lists tensors that its files lack: {listed(missing)}.", _COPY_AGAIN)

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor in float32."""
        try:
            value = np.asarray(self._open(self._files[name]).get_tensor(name))
        except (SafetensorError, OSError) as error:
            raise RunError(f"{self._files[name]} cannot be read: {one_line(error)}.", _COPY_AGAIN) from None
        self._read_bytes += value.nbytes
        return value.astype(np.float32, copy=False)

    def _open(self, path: str) -> Any:
        """Returns the opened file; only one is mapped at a time, and not for long."""
        if path != self._path or self._read_bytes > _MAPPED_BYTES:
            self._opened = None
            self._opened, self._path, self._read_bytes = _open(path), path, 0
        return self._opened


def _open(path: str) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError:
        raise RunError(f"{path} does not exist.", _COPY_AGAIN) from None
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} cannot be read as safetensors: {one_line(error)}.", _COPY_AGAIN) from None


def _locate(folder: str) -> Iterator[tuple[str, str]]:
    """Yields (name, path of its file) of every tensor.

    Raises:
        RunError: there are no weights, or their index is damaged.
    """
    whole, index = f"{folder}/{WEIGHTS_FILE}", f"{folder}/{INDEX_FILE}"
    if storage.exists(whole):
        for name in _open(whole).keys():  # noqa: SIM118 - it is no dictionary
            yield name, whole
        return
    text = storage.read_text(index)
    if text is None:
        raise RunError(
            f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}.",
            "Weights in other formats, such as pytorch_model.bin, are not read.",
        )
    try:
        files = json.loads(text)["weight_map"]
        yield from ((str(name), f"{folder}/{file}") for name, file in files.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{index} is damaged: {one_line(error)}.", _COPY_AGAIN) from None
