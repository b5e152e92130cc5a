"""``zeroseg train``, ``export`` and ``import``: fine-tune a model, and take it elsewhere."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_zeroseg.cli_terminal import print_out
from napari_zeroseg.errors import InputError
from napari_zeroseg.training.config import LOSSES, PROMPT_KINDS, WHAT, TrainingConfig, TrainingPair, words_of

if TYPE_CHECKING:
    from napari_zeroseg.training.events import Control
    from napari_zeroseg.training.result import TrainedModel

_log = logging.getLogger(__name__)


def add_commands(commands: Any) -> None:
    """Add the commands to the parser's `commands`."""
    _add_train(commands)
    export = commands.add_parser(
        "export",
        help="write a model as one file",
        description="Write a trained or added model as a file.",
    )
    export.add_argument("key", metavar="KEY", help="see `zeroseg models`")
    export.add_argument("file", type=Path, metavar="FILE", help="a .zip")
    export.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    export.add_argument(
        "--bioimageio", metavar="AUTHOR", help="write its class segmenter for the BioImage Model Zoo, by this author"
    )
    export.set_defaults(command=_export)
    importing = commands.add_parser(
        "import", help="add a model that `zeroseg export` wrote", description="Add a model that was exported elsewhere."
    )
    importing.add_argument("file", type=Path, metavar="FILE")
    importing.add_argument("--name", metavar="NAME", help="another name in the list")
    importing.set_defaults(command=_import)
    for command in (export, importing):
        command.add_argument("--json", action="store_true", help="print the outcome as JSON")


def _add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="fine-tune a model on labelled planes",
        description="Fine-tune a model on labelled planes. Settings come from RUN.toml, from options, or from both: "
        "options go before. Lines 'pause', 'resume' and 'stop' on the standard input steer a run with --events.",
    )
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN.toml", help="settings; with --resume, a run's folder")
    data = parser.add_argument_group("data")
    data.add_argument("--images", action="append", default=[], type=Path, metavar="IN", help="may be repeated")
    data.add_argument(
        "--labels", action="append", default=[], type=Path, metavar="LABELS", help="one for each --images"
    )
    data.add_argument("--planes", metavar="0:12", help="planes to learn from (default: all with labels)")
    data.add_argument("--labels-are", choices=("auto", "instances", "classes"), help="default: auto")
    data.add_argument("--classes", type=_whole_numbers, metavar="1,3", help="labels to learn (default: all but 0)")
    data.add_argument("--ignore", type=int, metavar="LABEL", help="label of pixels that do not count")
    data.add_argument("--min-pixels", type=int, metavar="N", help="leave smaller objects out (default: 50)")
    data.add_argument(
        "--validate-on",
        action="append",
        default=[],
        nargs=2,
        type=Path,
        metavar=("IN", "LABELS"),
        help="hold this picture back, and no part of --images; may be repeated",
    )
    data.add_argument("--validation", type=float, metavar="PART", help="part of --images to hold back (default: 0.25)")
    data.add_argument("--gap", type=int, metavar="N", help="planes beside that part used for neither (default: 1)")
    how = parser.add_argument_group("how")
    how.add_argument("--base", metavar="KEY", help="model to start from (default: mobile_sam)")
    how.add_argument("--name", metavar="NAME", help="of the result in the list of models")
    how.add_argument("--what", choices=WHAT, help="what to train (default: decoder)")
    how.add_argument(
        "--words", type=_words, metavar="'lung=1, heart=2'", help="what the labels are called, for a base that reads"
    )
    how.add_argument("--prompts", type=_prompts, metavar="box=1,centre=2", help=f"of {', '.join(PROMPT_KINDS)}")
    how.add_argument("--loss", choices=LOSSES, help="default: dice_bce")
    how.add_argument("--epochs", type=int, help="how often every object is shown")
    how.add_argument("--minutes", type=float, help="how long to train")
    how.add_argument("--learning-rate", type=float, metavar="RATE", help="default: 2e-4")
    how.add_argument("--batch", type=int, metavar="N", help="prompts a step (default: 16)")
    how.add_argument(
        "--variants", type=int, metavar="N", help="versions of each window: turned, bent, noisy … (default: 2)"
    )
    how.add_argument(
        "--keep-orientation",
        action="store_false",
        default=None,
        dest="any_orientation",
        help="neither flip windows nor turn them far: for pictures of people, whose left and right differ",
    )
    how.add_argument("--patience", type=int, metavar="N", help="stop after N validations without progress (default: 0)")
    how.add_argument(
        "--recompute", action="store_true", default=None, help="take less memory and more time to train the encoder"
    )
    how.add_argument("--seed", type=int, help="of everything random (default: 0)")
    how.add_argument("--device", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    how.add_argument("--precision", choices=("auto", "float32", "bf16", "fp16"), help="default: auto")
    how.add_argument("--processes", type=int, metavar="N", help="share each step among N GPUs (default: 1)")
    run = parser.add_argument_group("the run")
    run.add_argument("--out", type=Path, metavar="RUNFOLDER", help="folder of the run (default: in the data folder)")
    run.add_argument("--resume", action="store_true", help="go on with a run that was stopped or killed")
    run.add_argument("--estimate", action="store_true", help="measure memory and time, and do not train")
    run.add_argument("--look", type=Path, metavar="SHEET.png", help="draw what the network will see, and do not train")
    run.add_argument("--events", metavar="-", choices=("-",), help="print events as lines of JSON")
    run.add_argument("--tensorboard", action="store_true", default=None, help="write for TensorBoard as well")
    run.add_argument("--json", action="store_true", help="print the card of the result as JSON")
    parser.set_defaults(command=_train, complain=parser.error)


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"whole numbers with commas were expected, not {text!r}") from None


def _prompts(text: str) -> dict[str, float]:
    chosen: dict[str, float] = {}
    for part in text.split(","):
        kind, _, weight = part.strip().partition("=")
        if kind not in PROMPT_KINDS:
            raise argparse.ArgumentTypeError(f"there is no prompt {kind!r}; there are: {', '.join(PROMPT_KINDS)}")
        try:
            chosen[kind] = float(weight or 1)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{weight!r} is no weight of a prompt: write for example box=2") from None
    return chosen


def _words(text: str) -> dict[str, tuple[int, ...]]:
    try:
        return words_of(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_SETTINGS = (
    *("base", "name", "what", "words", "prompts", "loss", "epochs", "minutes", "learning_rate", "batch", "variants"),
    *("any_orientation", "patience", "recompute", "seed", "device", "precision", "tensorboard", "processes"),
)
_DATA_SETTINGS = ("labels_are", "classes", "ignore", "min_pixels", "validation", "gap")


_OPTIONS = {"any_orientation": "keep_orientation"}
"""Options that are called otherwise than what they set."""


def config_of(options: argparse.Namespace) -> TrainingConfig:
    """Settings of a file, of options, or of both.

    Raises
    ------
    InputError, ReadError
        If there is too little, or pictures and labels are not in pairs.
    """
    given = {name: getattr(options, name) for name in (*_SETTINGS, *_DATA_SETTINGS)}
    values = {name: value for name, value in given.items() if value is not None}
    if len(options.images) != len(options.labels):
        raise InputError(
            f"There are {len(options.images)} pictures and {len(options.labels)} labels: give one --labels for each "
            "--images, in the same order."
        )
    pairs = [
        TrainingPair(str(image.absolute()), str(labels.absolute()), options.planes or "")
        for image, labels in zip(options.images, options.labels, strict=True)
    ]
    held = tuple(
        TrainingPair(str(image.absolute()), str(labels.absolute()), role="validation")
        for image, labels in options.validate_on
    )
    if pairs:
        values["pairs"] = (*pairs, *held)
    if options.run is not None:
        config = TrainingConfig.read(options.run)
        if not pairs and (options.planes or held):
            kept = (pair for pair in config.pairs if not (held and pair.role == "validation"))
            named = (replace(one, planes=options.planes) if options.planes else one for one in kept)
            values["pairs"] = (*named, *held)
        return replace(config, **values)
    missing = {"name": "--name", "pairs": "--images and --labels"}
    for name, option in missing.items():
        if name not in values:
            options.complain(f"{option} is missing: give it, or a RUN.toml")
    assert {entry.name for entry in fields(TrainingConfig)} >= set(values)
    return TrainingConfig(**values)


def _train(options: argparse.Namespace) -> None:
    from napari_zeroseg.training.run import train

    if options.resume:
        _check_resumed(options)
        trained = _watched(options, lambda **ways: train(options.run or options.out, resume=True, **ways))
    else:
        config = config_of(options)
        if options.look is not None:
            _look(options, config)
            return
        if options.estimate:
            _estimate(options, config)
            return
        trained = _watched(options, lambda **ways: train(config, out=options.out, **ways))
    if options.json:
        print_out(json.dumps(trained.card, indent=2))
    elif not (options.quiet or options.events):
        from napari_zeroseg.training.card import as_text

        print_out(as_text(trained.card))


def _check_resumed(options: argparse.Namespace) -> None:
    """A run goes on with the settings that it has: others are refused, not left out of account."""
    if options.look is not None:
        options.complain("--look shows a run before it begins: leave out --resume, or give its run.toml")
    if (options.run is None) == (options.out is None):
        options.complain("--resume needs the folder of the run, and no other")
    names = ("images", "labels", "planes", "validate_on", *_SETTINGS, *_DATA_SETTINGS, "estimate")
    unsaid: dict[str, Any] = {"images": [], "labels": [], "validate_on": [], "estimate": False}
    given = [name for name in names if getattr(options, name) != unsaid.get(name)]
    if given:
        listed = ", ".join("--" + _OPTIONS.get(name, name).replace("_", "-") for name in given)
        options.complain(
            f"--resume goes on with the settings of the run, so {listed} cannot be given: leave out, or start another "
            "run with the run.toml of this one"
        )


def _watched(options: argparse.Namespace, start: Any) -> TrainedModel:
    """Train with events on the standard output, or a bar on the standard error."""

    def control(steering: Control) -> None:
        if options.events and not sys.stdin.isatty():
            steering.listen(sys.stdin)
        signals.append(steering)

    signals: list[Control] = []
    with _stopping(signals), _Teller(options) as teller:
        trained: TrainedModel = start(listener=teller, control=control)
        return trained


@contextlib.contextmanager
def _stopping(signals: list[Control]) -> Iterator[None]:
    """Ctrl-C and SIGTERM let the run finish its step and keep its state; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        if not signals:
            raise KeyboardInterrupt
        signals.pop().tell("stop")

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class _Teller:
    """Events to the terminal: lines of JSON, or a bar that hides itself where nobody looks."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._json = options.events is not None
        self._quiet = options.quiet or not sys.stderr.isatty()
        self._told = not options.quiet
        self._bar: Any = None

    def __enter__(self) -> _Teller:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, event: dict[str, Any]) -> None:
        if self._json:
            print_out(json.dumps(event))
        elif event["event"] == "step":
            self._step(event)
        elif event["event"] in _SENTENCES and self._told:
            _log.info("%s", _SENTENCES[event["event"]](event))

    def _step(self, event: dict[str, Any]) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(unit="step", disable=self._quiet, leave=False)
        self._bar.total = event["steps"]
        self._bar.set_postfix(loss=f"{event['loss']:.3f}", refresh=False)
        self._bar.update(event["step"] - self._bar.n)


def _figures(event: dict[str, Any]) -> str:
    pairs = [(name.removeprefix("iou_"), value) for name, value in event.items() if name.startswith("iou_")]
    based = {name.removeprefix("base_iou_"): value for name, value in event.items() if name.startswith("base_iou_")}
    told = [f"{kind} {value:.3f}" + (f" (base {based[kind]:.3f})" if kind in based else "") for kind, value in pairs]
    return ", ".join(told)


def _block(event: dict[str, Any]) -> str:
    return f", {event['held_back']} held back" if "block" in event else ""


_SENTENCES: dict[str, Any] = {
    "started": lambda event: f"The run is in {event['folder']}.",
    "data": lambda event: (
        f"{event['objects']} objects ({event['labels_are']}) on {event['planes']} planes; held back: "
        f"{event['held_back']}."
    ),
    "plan": lambda event: f"{event['steps']} steps, about {event['seconds'] / 60:.1f} minutes.",
    "validation": lambda event: f"Step {event['step']}{_block(event)}: IoU on held-back objects: {_figures(event)}.",
    "warning": lambda event: event["message"],
    "paused": lambda event: "Paused.",
    "resumed": lambda event: "Going on.",
}


def _estimate(options: argparse.Namespace, config: TrainingConfig) -> None:
    from napari_zeroseg.training.estimate import estimate

    found = estimate(config)
    values = {
        "memory_bytes": found.memory_bytes,
        "free_bytes": found.free_bytes,
        "fits": found.fits,
        "steps": found.steps,
        "seconds_encoding": round(found.seconds_encoding, 1),
        "seconds_per_epoch": round(found.seconds_per_epoch, 1),
        "seconds": round(found.seconds, 1),
        "end": found.end.isoformat(timespec="minutes"),
    }
    if options.json:
        print_out(json.dumps(values, indent=2))
        return
    print_out(
        f"{found.steps} steps take about {found.seconds / 60:.0f} minutes ({found.seconds_per_epoch:.0f} s an epoch), "
        f"until {found.end:%H:%M}, and {found.memory_bytes / 1e9:.1f} GB of memory"
        + ("." if found.fits else f", of which {found.free_bytes / 1e9:.1f} GB are free: choose a smaller setting.")
    )


def _look(options: argparse.Namespace, config: TrainingConfig) -> None:
    from napari_zeroseg.training.look import look

    rows = look(config, options.look)
    columns = len(rows[0].glimpses)
    values = {"path": str(options.look), "windows": len(rows), "columns": columns}
    _report(options, values, f"{options.look} shows {len(rows)} windows in {columns} variants each.")


def _export(options: argparse.Namespace) -> None:
    if options.bioimageio is not None:
        from napari_zeroseg.training.bioimageio import export_bioimageio

        path = export_bioimageio(options.key, options.file, options.bioimageio, overwrite=options.overwrite)
    else:
        from napari_zeroseg.training.result import export_model

        path = export_model(options.key, options.file, overwrite=options.overwrite)
    _report(
        options, {"key": options.key, "path": str(path), "size": path.stat().st_size}, f"{options.key} is in {path}."
    )


def _import(options: argparse.Namespace) -> None:
    from napari_zeroseg.training.result import import_model

    spec = import_model(options.file, options.name)
    _report(options, {"key": spec.key, "base": spec.base}, f"{spec.title} is ready: use it as {spec.key}.")


def _report(options: argparse.Namespace, values: dict[str, Any], sentence: str) -> None:
    if options.json:
        print_out(json.dumps(values, indent=2))
    elif not options.quiet:
        print_out(sentence)
