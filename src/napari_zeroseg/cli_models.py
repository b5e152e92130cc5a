"""``zeroseg models``, ``download``, ``verify``, ``add`` and ``remove``: the models on this machine."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_zeroseg.cli_terminal import print_out, told_to_stop
from napari_zeroseg.errors import CancelledError, LicenceError, WeightsError

if TYPE_CHECKING:
    from tqdm import tqdm

    from napari_zeroseg.catalogue import ModelSpec
    from napari_zeroseg.precision import PrecisionReport

_log = logging.getLogger(__name__)


def add_commands(commands: Any) -> None:
    """Add the commands about models to the parser's `commands`."""
    models = commands.add_parser("models", help="list the models", description="List the models and their state.")
    models.set_defaults(command=_models)
    download = commands.add_parser(
        "download",
        help="download a model's weights",
        description="Download a model's weights into the models folder. Stopped or broken off, the same command goes "
        "on from there.",
    )
    download.add_argument("key", metavar="KEY", help="see `zeroseg models`")
    download.add_argument("--weights", metavar="OWNER/NAME", help="other weights for it, a repository on a model hub")
    download.add_argument("--accept-licence", action="store_true", help="accept the licence of the weights, unasked")
    download.add_argument(
        "--accept-change",
        default="",
        metavar="SHA256",
        help="take the file of that hash, although the first download of it was another",
    )
    download.set_defaults(command=_download)
    verify = commands.add_parser(
        "verify", help="check a model's weights", description="Hash a model's files anew and compare."
    )
    verify.add_argument("key", metavar="KEY", help="see `zeroseg models`")
    verify.add_argument(
        "--masks",
        action="store_true",
        help="compare its masks in the precision that this machine computes in best with those in float32, which auto "
        "means from then on where they differ",
    )
    verify.add_argument(
        "--picture",
        type=Path,
        action="append",
        metavar="IN",
        help="to compare masks on (its middle plane; may be given several times; default: the samples)",
    )
    verify.set_defaults(command=_verify)
    add = commands.add_parser(
        "add",
        help="add a checkpoint that you have",
        description="Add a checkpoint to the models: whose it is, is told from the file where that can be.",
    )
    add.add_argument("file", type=Path, metavar="FILE", help=".pth, .pt, .safetensors, or a folder of transformers")
    add.add_argument("--key", metavar="KEY", help="the model whose weights they are")
    add.add_argument("--name", metavar="NAME", help="a name of its own, for weights that are not the published ones")
    add.add_argument(
        "--with",
        dest="beside",
        metavar="SAM_CHECKPOINT",
        help="the SAM that a PA-SAM decoder was trained on, where FILE holds the decoder alone: a file, or the KEY of "
        "one that is here",
    )
    add.add_argument("--link", action="store_true", help="link the file instead of copying it")
    add.set_defaults(command=_add)
    remove = commands.add_parser(
        "remove", help="delete a model's weights", description="Delete a model's files from the models folder."
    )
    remove.add_argument("key", metavar="KEY", help="see `zeroseg models`")
    remove.set_defaults(command=_remove)
    for command in (models, download, verify, add, remove):
        command.add_argument("--json", action="store_true", help="print the outcome as JSON")


def _row(spec: ModelSpec) -> dict[str, Any]:
    return {
        "key": spec.key,
        "title": spec.title,
        "family": spec.family,
        "size_name": spec.size_name,
        "state": spec.state,
        "licence": spec.licence,
        "licence_note": spec.licence_note,
        "accepts": sorted(spec.accepts),
        "megabytes": round(spec.size / 1e6, 1),
        "homepage": spec.homepage,
    }


def _models(options: argparse.Namespace) -> None:
    from napari_zeroseg.registry import list_models
    from napari_zeroseg.weights.folder import size_in_words

    specs = list_models()
    if options.json:
        print_out(json.dumps([_row(spec) for spec in specs], indent=2))
        return
    for spec in specs:
        size = size_in_words(spec)
        print_out(f"{spec.key:<22} {spec.title:<22} {spec.family:<8} {spec.state:<15} {size:>12}  {spec.licence}")


def _download(options: argparse.Namespace) -> None:
    from napari_zeroseg.registry import download_model, find_model, offer_of
    from napari_zeroseg.weights.repositories import of_repository

    spec = find_model(options.key)
    if options.weights is not None:
        spec = of_repository(spec, options.weights)
    was_ready = spec.state == "ready"
    accepted = options.accept_licence
    if not was_ready:
        offer = offer_of(options.key, weights=options.weights).sentence(spec.title)
        if accepted:
            _log.info("%s", offer)
        else:
            accepted = _asked(offer)
    with _Bar(options.quiet or options.json) as bar:
        try:
            with told_to_stop():
                path = download_model(
                    options.key,
                    weights=options.weights,
                    licence_accepted=accepted,
                    progress=bar,
                    accept_change=options.accept_change,
                )
        except KeyboardInterrupt:
            raise CancelledError("Stopped. What has come is kept: the same command goes on from there.") from None
    done = {"key": spec.key, "path": str(path), "size": path.stat().st_size, "was_ready": was_ready}
    sentence = f"{spec.title} is {'on this machine already' if was_ready else 'ready'}: {path}"
    _report(options, done, sentence)


def _asked(offer: str) -> bool:
    """Ask a person for consent; where there is none, the error says how to give it."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write(f"{offer}\nAccept this licence and download? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise LicenceError("The licence was not accepted, and nothing was downloaded.")
    return True


class _Bar:
    """A progress bar on stderr, which hides itself where nobody looks."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet or not sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(initial=done, unit="B", unit_scale=True, disable=self._quiet, leave=False)
        self._bar.total = total or None
        self._bar.update(done - self._bar.n)


def _verify(options: argparse.Namespace) -> None:
    from napari_zeroseg.registry import verify

    report = verify(options.key)
    fields = ("key", "ok", "sha256", "expected", "sentence")
    told: dict[str, Any] = {"path": str(report.path), **{name: getattr(report, name) for name in fields}}
    if report.ok and (options.masks or options.picture):
        compared = _compared(options.key, options.picture or ())
        told["masks"] = {**asdict(compared), "unchanged": compared.unchanged, "sentence": compared.sentence}
    if options.json:
        print_out(json.dumps(told, indent=2))
    if not report.ok:
        raise WeightsError(report.sentence)
    if not (options.json or options.quiet):
        print_out(report.sentence)
        if "masks" in told:
            print_out(told["masks"]["sentence"])


def _compared(key: str, files: Sequence[Path]) -> PrecisionReport:
    """Masks in two precisions on the middle planes of files, or of the samples."""
    from napari_zeroseg.demo import samples
    from napari_zeroseg.intensity import to_uint8
    from napari_zeroseg.io.read import open_image
    from napari_zeroseg.precision import compare_precisions

    if files:
        opened = [open_image(file) for file in files]
        sources = [(one.planes(), one.metadata.get("contrast_limits")) for one in opened]
    else:
        sources = [(sample.planes, sample.limits) for sample in samples()]
    pictures = [to_uint8(planes.read(len(planes) // 2), limits) for planes, limits in sources]
    return compare_precisions(key, pictures)


def _add(options: argparse.Namespace) -> None:
    from napari_zeroseg.registry import add_checkpoint

    spec = add_checkpoint(options.file, options.key, options.name, beside=options.beside, link=options.link)
    _report(options, _row(spec), f"{spec.title} is ready: use it as {spec.key}.")


def _remove(options: argparse.Namespace) -> None:
    from napari_zeroseg.registry import find_model, remove_model

    title = find_model(options.key).title
    remove_model(options.key)
    _report(options, {"key": options.key}, f"The weights of {title} were removed from this machine.")


def _report(options: argparse.Namespace, fields: dict[str, Any], sentence: str) -> None:
    if options.json:
        print_out(json.dumps(fields, indent=2))
    elif not options.quiet:
        print_out(sentence)
