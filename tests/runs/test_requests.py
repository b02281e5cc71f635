"""Requests to a run: left whole, taken once, and refused in a sentence where they make no sense."""

from __future__ import annotations

import pytest

from adapter_lab.errors import AdapterLabError
from adapter_lab.runs import requests
from adapter_lab.runs.requests import Requested


def test_requests_are_taken_once_but_the_stop_stays(tmp_path):
    assert requests.present(tmp_path) == frozenset()
    requests.request_stop(tmp_path)
    requests.request_save(tmp_path)
    requests.request_sample(tmp_path)
    requests.set_prompts(tmp_path, [" größer ", "b"])
    taken = requests.take(tmp_path, requests.present(tmp_path))
    assert taken == Requested(stop=True, save=True, sample=True, prompts=["größer", "b"])
    assert requests.present(tmp_path) == {"stop"}
    requests.forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["{", "3", '["a", 1]', '"text"'])
def test_prompts_that_make_no_sense_are_complained_about_and_gone(tmp_path, content):
    (tmp_path / "prompts.json").write_text(content)
    taken = requests.take(tmp_path, requests.present(tmp_path))
    assert taken.prompts is None and "could not be read" in taken.complaint
    assert requests.present(tmp_path) == frozenset()


@pytest.mark.parametrize("prompts", [["x" * 10_001], "text", [None]])
def test_prompts_are_checked_where_they_are_given(tmp_path, prompts):
    with pytest.raises(AdapterLabError, match="prompt"):
        requests.set_prompts(tmp_path, prompts)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_said(tmp_path):
    with pytest.raises(AdapterLabError, match="was not told"):
        requests.request_stop(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        requests.present(tmp_path / "gone")
