"""CLIP's vocabulary, from files alone, and what of a long phrase is read."""

import logging
import shutil
import socket
import threading

import numpy as np
import pytest
import torch

from napari_zeroseg.errors import WeightsError
from napari_zeroseg.models.clipseg_text import PhraseMemory, Vocabulary, find_vocabulary, padded

START, END = 49406, 49407


@pytest.fixture
def vocabulary(clip_words):
    return Vocabulary(clip_words, "CLIPSeg", 77)


def test_tokens_are_clips_own(vocabulary):
    assert vocabulary.tokens("a photo of a cat") == ([START, 320, 1125, 539, 320, 2368, END], "")
    assert vocabulary.tokens("  A Photo  of a CAT ") == vocabulary.tokens("a photo of a cat")


@pytest.mark.parametrize("phrase", ["мозг", "肺", "🧠", "é", "a\nb", "<|endoftext|>", "…"])
def test_any_language_passes(vocabulary, phrase):
    ids, cut = vocabulary.tokens(phrase)
    assert ids[0] == START
    assert ids[-1] == END
    assert len(ids) > 2
    assert cut == ""


def test_what_has_no_room_is_told(vocabulary, caplog):
    words = [f"word{number}" for number in range(60)]
    phrase = " ".join(words)
    ids, cut = vocabulary.tokens(phrase)
    assert len(ids) == 77
    assert ids[-1] == END
    assert phrase.endswith(cut)
    assert 0 < len(cut) < len(phrase)
    kept, _ = vocabulary.tokens(phrase.removesuffix(cut))
    assert kept == ids

    memory = PhraseMemory(vocabulary, lambda tokens: torch.zeros(len(tokens), 4))
    assert memory.cut(phrase) == cut
    with caplog.at_level(logging.WARNING):
        memory.conditions(["lung", phrase])
        memory.conditions([phrase])
    assert len(caplog.records) == 1
    assert repr(cut) in caplog.text
    assert memory.cut(phrase) == cut
    assert memory.cut("lung") == ""


def test_seventy_five_tokens_fit(vocabulary):
    ids, cut = vocabulary.tokens(" ".join(["lung"] * 75))
    assert (len(ids), cut) == (77, "")
    ids, cut = vocabulary.tokens(" ".join(["lung"] * 76))
    assert (len(ids), cut) == (77, "lung")


def test_it_asks_no_network(clip_words, monkeypatch):
    def refuse(*_):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert Vocabulary(clip_words, "CLIPSeg", 77).tokens("lung")[1] == ""


def test_several_threads(vocabulary):
    answers = []
    phrases = [f"thing {number}" for number in range(50)]
    threads = [
        threading.Thread(target=lambda: answers.append([vocabulary.tokens(each) for each in phrases])) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6
    assert all(answer == answers[0] for answer in answers)


def test_missing_and_damaged_files(clip_words, tmp_path):
    assert find_vocabulary(None, tmp_path, clip_words) == clip_words
    assert find_vocabulary(None, tmp_path) is None
    with pytest.raises(WeightsError, match=r"vocab\.json and merges\.txt are not beside"):
        Vocabulary(None, "CLIPSeg", 77).tokens("lung")
    shutil.copy(clip_words / "merges.txt", tmp_path)
    assert find_vocabulary(tmp_path) is None
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(WeightsError, match="damaged"):
        Vocabulary(tmp_path, "CLIPSeg", 77).tokens("lung")


def test_those_used_longest_ago_are_forgotten(vocabulary):
    asked = []

    def embed(tokens):
        asked.append(len(tokens))
        return tokens[:, 1:2].float()

    memory = PhraseMemory(vocabulary, embed, capacity=2)
    first = memory.conditions(["lung", "heart", "lung"])
    assert first.shape == (3, 1)
    np.testing.assert_array_equal(first[0], first[2])
    memory.conditions(["lung"])
    memory.conditions(["liver"])
    memory.conditions(["lung"])
    assert asked == [2, 1]
    memory.conditions(["heart"])
    assert asked == [2, 1, 1]


def test_padding_repeats_the_end():
    assert padded([[1, 5, 9], [1, 5, 6, 7, 9]]).tolist() == [[1, 5, 9, 9, 9], [1, 5, 6, 7, 9]]
