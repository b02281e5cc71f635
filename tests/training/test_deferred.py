"""Values on their way from the device."""

from __future__ import annotations

import torch

from adapter_lab.training.device.deferred import DeferredValues


def test_values_on_the_host_are_ready_at_once_and_in_order():
    queue: DeferredValues[str] = DeferredValues()
    queue.push(torch.tensor([1.0, 2.0]), "a")
    queue.push(torch.tensor([3.0]), "b")
    assert queue.ready() == [([1.0, 2.0], "a"), ([3.0], "b")]
    assert queue.ready(wait=True) == []


class SlowEvent:
    """Stands in for a CUDA event that completes after being asked twice."""

    def __init__(self) -> None:
        self.asked = 0
        self.waited = False

    def query(self) -> bool:
        self.asked += 1
        return self.asked > 2

    def synchronize(self) -> None:
        self.waited = True


def test_values_still_on_their_way_are_handed_out_later_without_waiting():
    queue: DeferredValues[str] = DeferredValues()
    queue.push(torch.tensor([1.0]), "a")
    event = SlowEvent()
    queue._pending[0].arrived = event
    assert queue.ready() == []
    assert queue.ready() == []
    assert not event.waited
    assert queue.ready() == [([1.0], "a")]
    queue.push(torch.tensor([2.0]), "b")
    queue._pending[0].arrived = late = SlowEvent()
    assert queue.ready(wait=True) == [([2.0], "b")]
    assert late.waited
