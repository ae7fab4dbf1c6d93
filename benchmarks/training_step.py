"""The process that times the training step of panoptic_fpn_coco: python -m benchmarks.training_step PRECISION.

It prints JSON: seconds of the whole step and of its parts, floating-point operations of the step, the speed of a large
convolution in the same process, and the peak memory.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import coco_network, peak_memory_mb, platform, seconds
from panoptic_cli import config, devices, models, startup
from panoptic_cli.config import Experiment

if TYPE_CHECKING:  # the process chooses TensorFlow's kernels before it imports it
    import tensorflow as tf

SIZE, BATCH, OBJECTS = 256, 2, 8


def random_batch(experiment: Experiment) -> dict[str, Any]:
    """Makes a batch like the pipeline's, with random pictures and boxes, in the sizes of the configuration."""
    import tensorflow as tf

    from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes
    from panoptic_cli.pipeline.preprocessing import Geometry

    generator = np.random.default_rng(0)
    model, parser = experiment.task.model, experiment.task.train_data.parser
    batch, side = experiment.task.train_data.global_batch_size, model.input_size[0]
    most, crop = parser.max_num_instances, parser.mask_crop_size
    corner = generator.uniform(0, side / 2, (batch, OBJECTS, 2))
    boxes = np.full((batch, most, 4), -1.0, np.float32)
    boxes[:, :OBJECTS] = np.concatenate([corner, corner + generator.uniform(20, side / 2, corner.shape)], -1)
    classes = np.full((batch, most), -1, np.int32)
    classes[:, :OBJECTS] = generator.integers(1, 91, (batch, OBJECTS))
    anchors = anchor_boxes(model.anchor, (side, side), model.min_level, model.max_level)
    places = {level: boxes_.shape[:3] for level, boxes_ in anchors.items()}
    size = tf.fill([batch, 2], float(side))
    return {
        "images": tf.constant(generator.standard_normal((batch, side, side, 3)), tf.float32),
        "geometry": Geometry(original_size=size, input_size=size, scale=tf.ones_like(size), offset=tf.zeros_like(size)),
        "gt_boxes": tf.constant(boxes),
        "gt_classes": tf.constant(classes),
        "gt_masks": tf.constant(generator.integers(0, 2, (batch, most, crop, crop)), tf.uint8),
        "rpn_scores": {
            str(level): tf.constant(generator.integers(-1, 2, (batch, h, w, a)), tf.int32)
            for level, (h, w, a) in places.items()
        },
        "rpn_boxes": {
            str(level): tf.constant(0.1 * generator.standard_normal((batch, h, w, 4 * a)), tf.float32)
            for level, (h, w, a) in places.items()
        },
        "semantic_labels": tf.constant(generator.integers(0, 111, (batch, side, side)), tf.int32),
    }


def convolution_speed(precision: str, batch: int = 16, side: int = 64, repeats: int = 1) -> float:
    """Returns the operations a second of a 3x3 convolution of 256 channels, forward, of a number of them in a row.

    On a GPU, one alone would measure its start.
    """
    import tensorflow as tf

    x = tf.cast(tf.random.stateless_normal([batch, side, side, 256], [0, 0]), precision)
    # The outputs of a convolution are the inputs of the next one, so they have to keep their size.
    kernel = tf.cast(tf.random.stateless_normal([3, 3, 256, 256], [0, 1]) / (9 * 256) ** 0.5, precision)

    @tf.function
    def convolve(x: tf.Tensor) -> tf.Tensor:
        for _ in range(repeats):
            x = tf.nn.conv2d(x, kernel, 1, "SAME")
        return tf.reduce_sum(x[0, 0, 0])

    return repeats * 2 * batch * side * side * 9 * 256 * 256 / seconds(lambda: convolve(x).numpy(), 5, warmups=2)


def operations(function: Any, *arguments: Any) -> float:
    """Returns the floating-point operations of a traced function, counted by TensorFlow's profiler."""
    import tensorflow as tf

    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    graph = function.get_concrete_function(*arguments).graph
    counted = tf.compat.v1.profiler.profile(
        graph, options={**options, "output": "none", "min_float_ops": 1}, cmd="scope"
    )
    return float(counted.total_float_ops)


def main(precision: str) -> None:
    """Times the step in one precision, and prints the figures."""
    experiment = config.load_experiment(
        settings=[
            f"task.model.input_size=[{SIZE},{SIZE},3]",
            f"task.train_data.global_batch_size={BATCH}",
            f"runtime.mixed_precision_dtype={precision}",
        ]
    )
    startup.own_process()  # as in the commands, freed memory is kept
    startup.import_tensorflow(models.prefers_onednn(experiment, training=True))
    import tensorflow as tf

    from panoptic_cli.training.schedules import build_optimizer
    from panoptic_cli.training.step import TrainingModel

    devices.set_precision(experiment.runtime)
    target = platform()
    model = TrainingModel(coco_network(experiment), experiment, target)
    optimizer = build_optimizer(experiment.trainer.optimizer_config, 100, precision)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer)
    batch = random_batch(experiment)
    variables = model.network.trainable_variables
    seed = tf.constant([0, 0])

    @tf.function
    def forward(data: dict[str, Any]) -> tf.Tensor:
        return model.network.losses(data, seed, tf.constant(0), target)["total_loss"]

    @tf.function
    def gradients(data: dict[str, Any]) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model.network.losses(data, seed, tf.constant(0), target)["total_loss"]
        return tf.linalg.global_norm(tape.gradient(loss, [v.value for v in variables]))

    step = tf.function(model.train_step)
    result = {"step": seconds(lambda: step(batch, tf.constant(0)), 3), "peak_memory_mb": peak_memory_mb()}
    result |= {"forward": seconds(lambda: forward(batch), 3), "gradients": seconds(lambda: gradients(batch), 3)}
    result["operations"] = operations(step, batch, tf.constant(0))
    result["convolution"] = convolution_speed(precision)
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "float32")
