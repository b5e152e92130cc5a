"""The zoo: errands are told how they ended, whatever else goes wrong."""

from __future__ import annotations

import threading

import pytest

from napari_zeroseg._napari import zoo as zoos
from napari_zeroseg._napari.zoo import Zoo
from napari_zeroseg.errors import WeightsError


def unreadable():
    raise OSError(5, "Input/output error")


def fail(_):
    raise WeightsError("It is damaged.")


@pytest.mark.parametrize(("work", "told"), [(lambda _: "whole", "whole"), (fail, "It is damaged.")])
def test_whoever_waits_hears_although_the_list_cannot_be_renewed(monkeypatch, caplog, work, told):
    zoo, heard, over = Zoo(), [], threading.Event()
    monkeypatch.setattr(zoos, "list_models", unreadable)

    def hear(outcome):
        heard.append(str(outcome))
        over.set()

    zoo.run("mobile_sam", "Verifying", work, hear, hear)
    assert over.wait(20)
    assert heard == [told]
    assert not zoo.errands
    assert [fault.sentence for fault in zoo.faults.values()] == ([told] if work is fail else [])
    assert "could not be renewed" in caplog.text
