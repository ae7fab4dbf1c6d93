"""A Python with TensorFlow, but without this package and Keras, as a server may have."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

# Runs each SavedModel on its inputs, whose keys are <folder>:<anything>, and writes all outputs.
_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import importlib.util
for name in ("panoptic_cli", "commands", "keras", "tf_keras"):
    assert importlib.util.find_spec(name) is None, f"{name} can be imported here"
import numpy as np
import tensorflow as tf

inputs = np.load("inputs.npz", allow_pickle=True)
loaded = {}
for key in inputs.files:
    folder = key.partition(":")[0]
    model = loaded.setdefault(folder, tf.saved_model.load(folder) if folder not in loaded else None)
    given = inputs[key]
    tensor = tf.constant(given.tolist() if given.dtype == object else given)
    outputs = model.signatures["serving_default"](tensor)
    arrays = {name: value.numpy() for name, value in outputs.items()}
    np.savez(f"{key.replace(':', '-')}.npz", **arrays)
assert not {"panoptic_cli", "keras"} & {name.partition(".")[0] for name in sys.modules}
"""


def without_the_package(folder: Path) -> Path:
    """Creates a folder with all installed packages except this one and Keras."""
    site = Path(sysconfig.get_paths()["purelib"])
    folder.mkdir()
    for path in site.iterdir():
        if not path.name.startswith(("panoptic", "__editable__", "keras", "tf_keras", "commands")):
            (folder / path.name).symlink_to(path)
    return folder


def serve(folder: Path, packages: Path) -> subprocess.CompletedProcess[str]:
    """Runs the SavedModels in `folder` on its inputs.npz; `packages` is from `without_the_package`.

    With -I and -S, Python ignores environment variables, site-packages and the links of editable installs.
    """
    command = [sys.executable, "-I", "-S", "-c", _SCRIPT, str(packages)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
