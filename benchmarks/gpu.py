"""Speed and memory on an NVIDIA GPU, and training on it: python -m benchmarks.gpu [--parts step,shapes,...].

Without a GPU that TensorFlow can use, it says why and exits with code 1. The most important measurements come first,
each figure is printed at once, and the last line is JSON with all of them. A measurement that fails is one line; the
others go on, and the exit code is 1. `--cpu-rehearsal` tries every kind of measurement on the CPU, at tiny sizes, to
show that the script works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.common import shapes_records
from panoptic_cli import console, devices, gpus, startup
from panoptic_cli.errors import PanopticError, one_line

PARTS = ("step", "suppression", "pipeline", "inference", "evaluation", "shapes", "two")
_LONGEST = 300.0  # seconds for one process, so that one that hangs does not take the time of all
_USUAL_PQ, _LEAST_PQ = 0.86, 0.82  # of shapes after 300 steps; it varies a little with machine and seed
_STEPS = 100  # of the trainings by two processes
REHEARSAL = ("task.model.min_level=4", "task.model.max_level=5")  # half as many levels are traced in half of the time
_REHEARSAL_OPTIONS = [word for setting in REHEARSAL for word in ("--set", setting)]
_LIBRARIES = ("nvidia-cuda-runtime-cu12", "nvidia-cudnn-cu12", "nvidia-nccl-cu12")


class Program:
    """A started process. Its error output goes to a file, so that it never waits for a reader.

    Args:
        command: arguments for Python.
        log: file for the error output.
        timeout: seconds until it is killed.
        environment: variables that are added.
    """

    def __init__(self, command: list[str], log: Path, timeout: float, environment: dict[str, str]) -> None:
        self._log, self._late = log, False
        variables = {**os.environ, **environment}
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *command], stdout=subprocess.PIPE, stderr=errors, text=True, env=variables
            )
        self._timer = threading.Timer(timeout, self._out_of_time)
        self._timer.start()

    def lines(self) -> Generator[str]:
        """Yields the lines of its output as they come.

        Raises:
            RuntimeError: it failed, or took too long.
        """
        assert self._process.stdout is not None
        try:
            yield from self._process.stdout
            code = self._process.wait()
        finally:
            self.stop()
        if self._late:
            raise RuntimeError("it took too long and was killed")
        if code:
            raise RuntimeError(f"exit code {code}: {_last_error(self._log.read_text(errors='replace'))}")

    def result(self) -> dict[str, Any]:
        """Returns the JSON object that a command with --json prints; raises as `lines`."""
        return dict(json.loads(list(self.lines())[-1]))

    def stop(self) -> None:
        """Ends it, if it has not ended."""
        self._timer.cancel()
        self._process.kill()

    def _out_of_time(self) -> None:
        self._late = True
        self._process.kill()


def _last_error(text: str) -> str:
    """Returns the last line that names an error, or else the last line."""
    said = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in said if re.search(r"Error: |error: |OOM when", line)]
    return one_line((errors or said or ["it printed no error"])[-1])


class Bench:
    """Runs measurements, prints what they find and collects it.

    Args:
        options: the command line.
        data: folder for generated data and for the error output of the processes.
        cards: how many GPUs TensorFlow has.
    """

    def __init__(self, options: argparse.Namespace, data: Path, cards: int) -> None:
        self.rehearsal: bool = options.cpu_rehearsal
        self.data, self.cards = data, cards
        self.rows: list[list[Any]] = []
        self.failed: list[str] = []
        self.sizes = {"size": options.size, "batch": options.batch, "rehearsal": self.rehearsal, "data": str(data)}
        self._end = time.monotonic() + options.limit
        self._logs = data / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)

    def say(self, line: str) -> None:
        """Prints a line at once; every line of a rehearsal says that it is one."""
        print(f"rehearsal on the CPU: {line}" if self.rehearsal else line, flush=True)

    def note(self, part: str, what: str, figure: float, unit: str, beside: str) -> None:
        """Prints and keeps a figure."""
        self.rows.append([part, what, figure, unit, beside])
        self.say(f"{part}: {what}: {figure:,.4g} {unit}  ({beside})")

    def attempt(self, name: str, measure: Callable[[], None]) -> None:
        """Runs a measurement; its failure is one line."""
        try:
            measure()
        except Exception as error:  # whatever it is, the others go on
            self.failed.append(f"{name}: {one_line(error)}")
            self.say(f"{name}: FAILED: {one_line(error)}")

    def start(self, log: str, *command: str, **environment: str) -> Program:
        """Starts a Python module.

        Args:
            log: name of the file for its error output.
            command: the module and its arguments.
            environment: variables that are added.
        """
        left = self._end - time.monotonic()
        if left < 1:
            raise RuntimeError("not started: the time is over (--limit)")
        if self.rehearsal:
            environment |= {"CUDA_VISIBLE_DEVICES": "-1", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
        return Program(["-m", *command], self._logs / f"{log}.txt", min(left, _LONGEST), environment)

    def part(self, name: str, *arguments: str) -> None:
        """Runs a part of `gpu_parts` in its own process, and prints each figure as it comes."""
        log = "-".join((name, *arguments))
        program = self.start(log, "benchmarks.gpu_parts", name, json.dumps(self.sizes), *arguments)
        with contextlib.closing(program.lines()) as lines:
            for line in lines:
                self.note(name, *json.loads(line))

    def shapes(self, precision: str) -> None:
        """Trains and evaluates shapes with one GPU, as `panoptic demo` does."""
        settings = (f"runtime.num_gpus={min(self.cards, 1)}", f"runtime.mixed_precision_dtype={precision}")
        options = [part for setting in settings for part in ("--set", setting)]
        options += ["--steps", "2", *_REHEARSAL_OPTIONS] if self.rehearsal else []
        with tempfile.TemporaryDirectory() as folder:
            command = ("panoptic_cli", "demo", "--output", f"{folder}/demo", "--json", *options)
            found = self.start(f"shapes-{precision}", *command).result()
        quality, usual = found["panoptic"]["All"]["pq"], f"{_USUAL_PQ} is usual after the preset's 300 steps"
        self.note("shapes", f"{precision}: PQ", quality, "", usual)
        self.note("shapes", f"{precision}: training", found["seconds"]["train"], "s", "with its start")
        if quality < _LEAST_PQ and not self.rehearsal:
            raise RuntimeError(f"the PQ {quality:.3f} is below {_LEAST_PQ}")

    def train(self, what: str, *runs: tuple[str, int, dict[str, str]]) -> None:
        """Trains shapes in several processes at the same time.

        Args:
            what: what is tried.
            runs: for each process the name of its run directory, its number of GPUs, and variables of its environment.
        """
        data, steps = shapes_records(self.data), 2 if self.rehearsal else _STEPS
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            programs = []
            for number, (run, count, environment) in enumerate(runs):
                options = {"experiment": "panoptic_fpn_shapes", "data-dir": data, "model-dir": f"{folder}/{run}"}
                options |= {"steps": steps, "gpus": min(count, self.cards)}
                words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
                words += _REHEARSAL_OPTIONS if self.rehearsal else []
                log = f"two-{what.replace(' ', '-')}-{number}"
                programs.append(self.start(log, "panoptic_cli", "train", "--json", *words, **environment))
                stack.callback(programs[-1].stop)
            found = [program.result() for program in programs]
        losses = " and ".join(f"{result['losses']['total_loss']:.4f}" for result in found)
        longest = max(result["seconds"] for result in found)
        self.note("two", f"{what}, shapes, {steps} steps", longest, "s", f"with tracing; the last loss is {losses}")

    def trainings(self) -> Iterator[Callable[[], None]]:
        """Yields the trainings with two processes or two cards that this machine can do."""
        if self.rehearsal:  # two processes that need each other; two that do not are no other code
            yield lambda: self.train("two workers", *_workers("", ""))
            return
        first, *others = _visible_cards(self.cards)
        on_first = {"CUDA_VISIBLE_DEVICES": first}
        yield lambda: self.train("two processes share one card", ("a", 1, on_first), ("b", 1, on_first))
        if not others:
            yield lambda: self.say("two: there is one card, so nothing is tried on two")
            return
        both = {"CUDA_VISIBLE_DEVICES": f"{first},{others[0]}"}
        yield lambda: self.train("two workers with a card each", *_workers(first, others[0]))
        yield lambda: self.train("one process with two cards", ("run", 2, both))
        yield lambda: self.train("one process with one card", ("run", 1, on_first))


def _visible_cards(count: int) -> list[str]:
    """Returns the names of this process' GPUs for CUDA_VISIBLE_DEVICES."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",")[:count] if chosen else [str(place) for place in range(count)]


def _workers(*cards: str) -> list[tuple[str, int, dict[str, str]]]:
    """Returns the arguments of `Bench.train` for a cluster on this machine, one process for each card."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in cards]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes]
    runs: list[tuple[str, int, dict[str, str]]] = []
    for index, card in enumerate(cards):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        runs.append(("cluster", 1, {"TF_CONFIG": json.dumps(task), "CUDA_VISIBLE_DEVICES": card}))
    return runs


def measurements(bench: Bench, parts: list[str]) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields what to measure, with its name, the most important first."""
    ordered: list[tuple[str, ...]] = [
        ("step", "float16"),
        ("suppression",),
        ("shapes", "float32"),
        ("inference", "bfloat16"),
        ("evaluation", "bfloat16"),
        ("pipeline",),
        ("two",),
        ("step", "bfloat16", "xla"),
    ]
    if not bench.rehearsal:  # it has tried these kinds
        ordered = [("step", "bfloat16"), *ordered]
        ordered += [("step", "float32"), ("inference", "float32"), ("shapes", "bfloat16")]
    for name, *arguments in ordered:
        if name not in parts:
            continue
        if name == "two":
            yield from (("two", training) for training in bench.trainings())
        else:
            measure = bench.shapes if name == "shapes" else functools.partial(bench.part, name)
            yield " ".join((name, *arguments)), functools.partial(measure, *arguments)


def why_not() -> str | None:
    """Returns why TensorFlow has no GPU; None: it has one."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return None
    cards = gpus.find_cards()
    reason, remedy = gpus.why_unusable(devices.tensorflow_build(), cards)
    return f"this machine has {gpus.count_and_names(cards)}, but {reason}. {remedy}" if cards else reason


def machine(rehearsal: bool) -> dict[str, Any]:
    """Returns the card that was measured, the driver and the versions of the libraries."""
    import tensorflow as tf

    build, versions = devices.tensorflow_build(), {}
    for name in ("keras", *_LIBRARIES):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    cards = [] if rehearsal else gpus.find_cards()
    # The driver also lists the cards that CUDA_VISIBLE_DEVICES hides.
    seen = [] if rehearsal else tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(seen[0]) if seen else {}
    return {
        "rehearsal": rehearsal,
        "card": details.get("device_name"),
        "driver": cards[0].driver if cards else None,
        "cards": [asdict(card) for card in cards],
        "tensorflow": build.version,
        "built_for": {"cuda": build.cuda, "cudnn": build.cudnn},
        "installed": versions,
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated; all by default: %(default)s")
    parser.add_argument("--size", type=int, help="side of the network's input, 1024 by default (rehearsal: 128)")
    parser.add_argument("--batch", type=int, help="pictures in a batch, 8 by default (rehearsal: 2)")
    parser.add_argument("--data", type=Path, help="folder for generated data and error output, which are then kept")
    parser.add_argument("--limit", type=float, default=840.0, help="seconds for everything, %(default)s by default")
    parser.add_argument("--cpu-rehearsal", action="store_true", help="try this script on the CPU, at tiny sizes")
    options = parser.parse_args(arguments)
    options.parts = options.parts.split(",")
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"unknown parts: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    options.size = options.size or (128 if options.cpu_rehearsal else 1024)
    options.batch = options.batch or (2 if options.cpu_rehearsal else 8)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measures; returns the exit code."""
    options, begun = parse(arguments), time.monotonic()
    console.configure(verbosity=-1)
    startup.own_process()
    try:
        startup.import_tensorflow()
    except PanopticError as error:
        print(f"benchmarks.gpu needs TensorFlow: {error}", flush=True)
        return 1
    problem = None if options.cpu_rehearsal else why_not()
    if problem is not None:
        print(f"benchmarks.gpu needs an NVIDIA GPU: {problem}", flush=True)
        return 1
    import tensorflow as tf

    cards = 0 if options.cpu_rehearsal else len(tf.config.list_physical_devices("GPU"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a time limit from outside still gets the last line
    with contextlib.ExitStack() as stack:
        data = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(options, data, cards)
        try:
            for name, measure in measurements(bench, options.parts):
                bench.attempt(name, measure)
        except KeyboardInterrupt:
            bench.failed.append("interrupted")
        found = machine(bench.rehearsal) | {"sizes": bench.sizes, "rows": bench.rows, "failed": bench.failed}
        print(json.dumps(found | {"seconds": round(time.monotonic() - begun, 1)}), flush=True)
        return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
