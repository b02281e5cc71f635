"""The counter of living tensor storage, against what torch's CPU allocator hands out."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from adapter_lab.training.estimate.live_memory import BLOCK, LiveMemory

MIB = 2**20


def floats(mebibytes: int) -> torch.Tensor:
    return torch.empty(mebibytes * MIB // 4)


def test_storage_counts_from_its_first_tensor_to_its_last_view() -> None:
    with LiveMemory() as memory:
        a = floats(4)
        assert memory.total == 4 * MIB
        view = a[5:10].unsqueeze(0)
        assert memory.total == 4 * MIB
        del a
        assert memory.total == 4 * MIB
        del view
        assert memory.total == 0
    assert memory.peak_total == 4 * MIB


def test_sizes_are_rounded_up_to_the_allocators_blocks() -> None:
    with LiveMemory() as memory:
        kept = [torch.empty(1), torch.empty(BLOCK // 4), torch.empty(BLOCK // 4 + 1)]
    assert memory.total == 4 * BLOCK
    assert len(kept) == 3


def test_the_peak_keeps_what_was_alive_then_by_label() -> None:
    with LiveMemory() as memory:
        with memory.labelled("weights"):
            weights = floats(2)
        for _ in range(3):
            floats(5)
        small = floats(1)
    assert memory.peak_total == 7 * MIB
    assert memory.peak == {"weights": 2 * MIB, "activations": 5 * MIB}
    assert memory.live == {"weights": 2 * MIB, "activations": 1 * MIB}
    assert weights.numel() == 2 * small.numel()


def test_tensors_made_before_are_adopted_and_relabelled_once() -> None:
    memory = LiveMemory()
    tensor = floats(2)
    memory.adopt("weights", [tensor, tensor[3:]])
    assert memory.live == {"weights": 2 * MIB}
    memory.adopt("adapter", [tensor])
    assert (memory.live["weights"], memory.live["adapter"], memory.total) == (0, 2 * MIB, 2 * MIB)
    del tensor
    assert memory.total == 0


def test_reserved_bytes_and_workspaces_count_towards_the_peak() -> None:
    memory = LiveMemory(workspaces={"aten::mul": lambda arguments, result: 3 * MIB})
    memory.reserve("optimiser", MIB)
    a = floats(1)
    with memory:
        b = a * a
    assert memory.peak == {"optimiser": MIB, "activations": MIB, "workspace": 3 * MIB}
    assert memory.total == 2 * MIB
    memory.reserve("optimiser", -MIB)
    del b
    assert memory.total == 0


def test_a_backward_pass_frees_what_was_kept_for_it_and_leaves_gradients() -> None:
    with LiveMemory() as memory:
        x = floats(1).requires_grad_()
        memory.adopt("weights", [x])
        x.register_post_accumulate_grad_hook(lambda p: memory.adopt("gradients", [p.grad]))
        loss = x.exp().sin().sum()
        assert memory.live["activations"] == MIB + BLOCK  # exp's result and the loss; sin's result is freed
        loss.backward()
        del loss
    assert {label: size for label, size in memory.live.items() if size} == {"weights": MIB, "gradients": MIB}


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 64, 3, padding=1), nn.SiLU(), nn.GroupNorm(8, 64), nn.Flatten(2), nn.Linear(1024, 256), nn.GELU()
    )


def test_a_real_step_takes_what_fake_tensors_predict_within_two_percent() -> None:
    def step(model: nn.Module) -> None:
        model(torch.zeros(16, 4, 32, 32)).square().mean().backward()

    with FakeTensorMode(), LiveMemory() as predicted:
        fake = network()
        resident = predicted.total
        predicted.restart()
        step(fake)
    model = network()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step(model)
    assert abs((predicted.peak_total - resident) / allocated_peak(recorded) - 1) < 0.02


def allocated_peak(recorded: profile) -> int:
    """Most bytes that torch's CPU allocator had handed out during a recording, above the start."""
    allocations: list[tuple[int, int]] = []

    def collect(events: list[object]) -> None:
        for event in events:
            if event.tag == torch._C._profiler._EventType.Allocation:  # type: ignore[attr-defined]
                allocations.append((event.start_time_ns, event.extra_fields.alloc_size))  # type: ignore[attr-defined]
            collect(event.children)  # type: ignore[attr-defined]

    collect(recorded.profiler.kineto_results.experimental_event_tree())  # type: ignore[union-attr]
    total = peak = 0
    for _, size in sorted(allocations):
        total += size
        peak = max(peak, total)
    return peak
