"""One worker of two; a script of test_workers.

python two_workers.py INDEX PORT RUN STEPS SECONDS_PER_BATCH [RECORDS]

INDEX -1 trains alone on the whole batch. Without RECORDS it trains the fake network, otherwise a tiny real one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import fakes

from panoptic_cli.config import load_experiment
from panoptic_cli.runs.categories import load_categories
from panoptic_cli.training import trainer
from panoptic_cli.training.cluster import leave_cluster_on_failure

index, port, run, steps, pause = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5])
records = sys.argv[6] if len(sys.argv) > 6 else None
if index >= 0:
    cluster = {"worker": [f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"]}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})


def slow_dataset(*arguments: Any, **position: Any) -> Any:
    """The fake batches, one every `pause` seconds."""
    import tensorflow as tf

    def wait(x: Any, y: Any) -> Any:
        with tf.control_dependencies([tf.py_function(lambda: time.sleep(pause), [], [])]):
            return tf.identity(x), y

    dataset = fakes.training_dataset(*arguments, **position)
    return dataset.map(wait, num_parallel_calls=1) if pause else dataset


with leave_cluster_on_failure():
    if records is None:
        fakes.use_fakes(noise=False, dataset=slow_dataset)
        batches = int(os.environ.get("BATCHES_PER_STEP", "1"))
        fake = fakes.tiny_experiment(trainer__train_steps=steps, trainer__gradient_accumulation_steps=batches)
        result = trainer.train(fake, run, fakes.TABLE)
    else:
        preset, *network = json.loads(os.environ["TINY_NETWORK"])
        experiment = load_experiment(
            preset,
            settings=[*network, "trainer.summary_interval=1"],
            options=[
                ("task.train_data.input_path", records),
                ("task.train_data.global_batch_size", 4),
                ("trainer.train_steps", steps),
                ("trainer.optimizer_config.learning_rate.cosine.decay_steps", 100),
            ],
        )
        result = trainer.train(experiment, run, load_categories(experiment))
print(json.dumps(result.to_dict()))
sys.stdout.flush()
sys.exit(result.exit_code)
