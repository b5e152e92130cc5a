"""The queue of proposals: ranked by certainty, and ranked anew by each answer without a run of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg import instances
from napari_zeroseg.cascade.features import Descriptor, Surroundings
from napari_zeroseg.cascade.options import SimilarOptions
from napari_zeroseg.cascade.planes import overlap, patch_iou
from napari_zeroseg.cascade.prototypes import Prototypes, learn
from napari_zeroseg.cascade.search import Candidate
from napari_zeroseg.errors import InputError
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.segmenter import Patch

_Value = Callable[[int, "Proposal"], int]

_SAME = 0.8
"""IoU from which a mask goes with one that was rejected; another outline of the same object may still be right."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """One of the rest, perhaps.

    Attributes
    ----------
    patch : tuple of (rows, columns, mask)
        Where it is, as from :meth:`Prediction.patch`.
    plane : int
        Index of its plane among those that were searched.
    label : int
        Its class.
    certainty : float
        0 to 1: that it is an object of this class, and well drawn.
    predicted_iou : float
        IoU that the model predicts.
    area : int
        Pixels.
    prompt : Prompt
        What the model was asked.
    """

    patch: Patch
    plane: int
    label: int
    certainty: float
    predicted_iou: float
    area: int
    prompt: Prompt


class Queue(Sequence[Proposal]):
    """Proposals, the most certain first.

    Accepting or rejecting one teaches the class at once and ranks the others anew; the model does not run.

    Parameters
    ----------
    candidates : sequence of Candidate
    examples : mapping of int to sequence of Descriptor
        What each class was learnt from.
    rejected : mapping of int to sequence of Descriptor
        What is not of the class.
    around : Surroundings
    shapes : sequence of tuple of int
        (H, W) of each plane.
    options : SimilarOptions
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        examples: Mapping[int, Sequence[Descriptor]],
        rejected: Mapping[int, Sequence[Descriptor]],
        around: Surroundings,
        shapes: Sequence[tuple[int, int]],
        options: SimilarOptions,
    ) -> None:
        self.options = options
        self.accepted: list[Proposal] = []
        self.rejected: list[Proposal] = []
        self._candidates = list(candidates)
        self._examples = {label: list(several) for label, several in examples.items()}
        self._rejected = {label: list(rejected.get(label, ())) for label in examples}
        self._around = around
        self._shapes = list(shapes)
        self._scores = np.array([[one.predicted_iou, one.stability] for one in candidates], np.float32).reshape(-1, 2)
        given = [np.nan if one.given is None else one.given for one in candidates]
        self._given = np.array(given, np.float32)
        self._gone = np.zeros(len(self._candidates), bool)
        self._answers: list[tuple[list[Proposal], bool, NDArray[np.bool_]]] = []
        spans = [[span.start, span.stop] for one in self._candidates for span in one.patch[:2]]
        self._boxes = np.array(spans, np.int64).reshape(-1, 2, 2)
        self._on_plane: dict[int, list[int]] = {}
        for number, one in enumerate(self._candidates):
            self._on_plane.setdefault(one.plane, []).append(number)
        self._overlapping: dict[int, list[int]] = {}
        self._ranked: list[Proposal] = []
        self._of_candidate: list[int] = []
        self._certain = np.zeros(len(self._candidates), np.float32)
        self._rank()

    @overload
    def __getitem__(self, index: int) -> Proposal: ...
    @overload
    def __getitem__(self, index: slice) -> list[Proposal]: ...
    def __getitem__(self, index: int | slice) -> Proposal | list[Proposal]:
        return self._ranked[index]

    def __len__(self) -> int:
        return len(self._ranked)

    def __iter__(self) -> Iterator[Proposal]:
        return iter(list(self._ranked))

    @property
    def prototypes(self) -> list[Prototypes]:
        """What has been learnt of each class so far."""
        return [
            learn(label, self._not_rejected(label), self._around, self._rejected[label]) for label in self._examples
        ]

    def _not_rejected(self, label: int) -> list[Descriptor]:
        """Examples of a class but those that were proposals themselves and turned out to be none; all if all were."""
        unwanted = {id(one) for one in self._rejected[label]}
        examples = self._examples[label]
        return [one for one in examples if id(one) not in unwanted] or examples

    def absence(self, plane: int = 0) -> float:
        """Say how sure it is that nothing of the classes is on a plane: 1 less the certainty of the best mask, 0 to 1.

        What was accepted counts as certain.
        """
        certain = [float(self._certain[i]) for i, one in enumerate(self._candidates) if one.plane == plane]
        return 0.0 if any(one.plane == plane for one in self.accepted) else 1.0 - max(certain, default=0.0)

    def accept(self, index: int) -> Proposal:
        """Take a proposal as an object of its class: it is an example from now on, and its place is taken.

        Raises
        ------
        InputError
            If there is no proposal `index`.
        """
        taken = self._taken(index)
        self._accept([taken])
        return taken[1]

    def accept_all(self, least: float) -> list[Proposal]:
        """Take all proposals that are at least so certain as objects, as one answer; return them."""
        chosen = [pair for pair in zip(self._of_candidate, self._ranked, strict=True) if pair[1].certainty >= least]
        if chosen:
            self._accept(chosen)
        return [proposal for _, proposal in chosen]

    def _accept(self, chosen: Sequence[tuple[int, Proposal]]) -> None:
        self._answers.append(([proposal for _, proposal in chosen], True, self._gone.copy()))
        for number, proposal in chosen:
            self._examples[proposal.label].append(self._candidates[number].descriptor)
            self.accepted.append(proposal)
            self._gone[[number, *self._overlaps(number)]] = True
        self._rank()

    def reject(self, index: int) -> Proposal:
        """Take a proposal as none of its class: what looks more like it than like the examples sinks.

        Raises
        ------
        InputError
            If there is no proposal `index`.
        """
        number, proposal = self._taken(index)
        one = self._candidates[number]
        self._answers.append(([proposal], False, self._gone.copy()))
        self._rejected[proposal.label].append(one.descriptor)
        self.rejected.append(proposal)
        for other in [number, *self._overlaps(number)]:
            if patch_iou(one.patch, self._candidates[other].patch) >= _SAME:
                self._gone[other] = True
        self._rank()
        return proposal

    def take_back(self) -> list[Proposal]:
        """Forget the last answer: what it was about is proposed again, and nothing is learnt of it; return that.

        Raises
        ------
        InputError
            If there is no answer.
        """
        if not self._answers:
            raise InputError("There is no answer to take back: nothing was accepted or rejected.")
        proposals, was_accepted, self._gone = self._answers.pop()
        taught, kept = (self._examples, self.accepted) if was_accepted else (self._rejected, self.rejected)
        for proposal in reversed(proposals):
            taught[proposal.label].pop()
            kept.pop()
        self._rank()
        return proposals

    def to_labels(self, plane: int = 0, first: int = 1) -> NDArray[np.int32]:
        """Draw all that was accepted and is proposed on a plane, (H, W) int32, with numbers from `first` on."""
        return self._drawn(plane, lambda number, _: first + number)

    def to_classes(self, plane: int = 0) -> NDArray[np.int32]:
        """Draw the same by their classes."""
        return self._drawn(plane, lambda _, proposal: proposal.label)

    def _drawn(self, plane: int, value: _Value) -> NDArray[np.int32]:
        if not 0 <= plane < len(self._shapes):
            raise InputError(f"There is no plane {plane}: {len(self._shapes)} were searched, counted from 0.")
        labels = np.zeros(self._shapes[plane], np.int32)
        mine = [one for one in (*self.accepted, *self._ranked) if one.plane == plane]
        for number, one in enumerate(mine):
            instances.write(labels, one.patch, value(number, one), OverlapPolicy.EMPTY)
        return labels

    def _taken(self, index: int) -> tuple[int, Proposal]:
        if not -len(self) <= index < len(self):
            raise InputError(f"There is no proposal {index}: the queue has {len(self)}, counted from 0.")
        return self._of_candidate[index], self._ranked[index]

    def _rank(self) -> None:
        """Say anew how certain each candidate is, and keep the best of those that overlap."""
        if not self._candidates:
            return
        learnt = self.prototypes
        described = [one.descriptor for one in self._candidates]
        certain = np.stack([one.certainty(described, self._scores, given=self._given) for one in learnt])
        best = certain.argmax(0)
        highest = self._certain = certain.max(0)
        taken = self._gone.copy()
        self._ranked, self._of_candidate = [], []
        for number in np.argsort(-highest, kind="stable").tolist():
            if highest[number] < self.options.least_certainty:
                break
            if taken[number]:
                continue
            one = self._candidates[number]
            told = (float(highest[number]), one.predicted_iou, one.descriptor.area, one.prompt)
            self._ranked.append(Proposal(one.patch, one.plane, learnt[best[number]].label, *told))
            self._of_candidate.append(number)
            taken[self._overlaps(number)] = True

    def _overlaps(self, number: int) -> list[int]:
        """Candidates that are the same object as this one."""
        if number not in self._overlapping:
            one = self._candidates[number]
            members = np.array(self._on_plane[one.plane])
            boxes, own = self._boxes[members], self._boxes[number]
            near = members[((boxes[..., 0] < own[:, 1]) & (boxes[..., 1] > own[:, 0])).all(1)].tolist()
            self._overlapping[number] = [
                i for i in near if i != number and overlap(one.patch, self._candidates[i].patch) > self.options.overlap
            ]
        return self._overlapping[number]
