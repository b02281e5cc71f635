"""Each algorithm against its definition, written out with explicit Kronecker products, block matrices and loops."""

from __future__ import annotations

import math
import random as random_module
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adapter_lab.adapters.base import FileOptions, patch, patch_bias
from adapter_lab.adapters.file import adapter_from_tensors
from adapter_lab.adapters.oft import generators
from adapter_lab.errors import FileFormatError
from tests.adapters.random_adapter import ALGORITHMS, random_tensors

IN, OUT, RANK = 6, 8, 3
SHAPES = {"linear": (OUT, IN), "conv1x1": (OUT, IN, 1, 1), "conv3x3": (OUT, IN, 3, 3)}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=SHAPES)
def base(request: pytest.FixtureRequest) -> Tensor:
    return random(*SHAPES[request.param])


def close(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).norm() <= 1e-12 * second.norm())


def each_position(base: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`change` applied to the (out, in) matrix at every kernel position."""
    if base.dim() == 2:
        return change(base)
    changed = torch.empty_like(base)
    for h in range(base.shape[2]):
        for w in range(base.shape[3]):
            changed[:, :, h, w] = change(base[:, :, h, w])
    return changed


def tucker(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Sum over ranks, position by position: core (p, q, kh, kw), up (out, p), down (q, in)."""
    kernel = core.shape[2:]
    whole = torch.empty(up.shape[0], down.shape[1], *kernel, dtype=torch.float64)
    for h in range(kernel[0]):
        for w in range(kernel[1]):
            whole[:, :, h, w] = up @ core[:, :, h, w] @ down
    return whole


def test_lora_is_up_times_down_times_alpha_over_dim(base: Tensor) -> None:
    up, down = random(OUT, RANK, *[1] * (base.dim() - 2)), random(RANK, *base.shape[1:])
    adapter = adapter_from_tensors({"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(1.5)})
    product = (up.reshape(OUT, RANK) @ down.reshape(RANK, -1)).reshape(base.shape)
    assert close(adapter.weight(base), base + 1.5 / RANK * product)
    assert adapter.describe() == {"dim": RANK, "alpha": 1.5, "tucker": False}


def test_lora_without_alpha_has_scale_one() -> None:
    base, up, down = random(OUT, IN), random(OUT, RANK), random(RANK, IN)
    assert close(adapter_from_tensors({"lora_B.weight": up, "lora_A.weight": down}).weight(base), base + up @ down)


def test_tucker_locon_contracts_the_core_over_both_ranks() -> None:
    base, core = random(OUT, IN, 3, 3), random(RANK, RANK, 3, 3)
    up, down = random(OUT, RANK), random(RANK, IN)
    tensors = {
        "lora_up.weight": up[..., None, None],
        "lora_down.weight": down[..., None, None],
        "lora_mid.weight": core,
    }
    assert close(adapter_from_tensors(tensors).weight(base), base + tucker(core, up, down))


@pytest.mark.parametrize("with_core", [False, True])
def test_loha_is_the_elementwise_product_of_two_low_rank_matrices(with_core: bool) -> None:
    base = random(OUT, IN, 3, 3)
    if with_core:
        a, b, t = ([random(RANK, n) for _ in "12"] for n in (OUT, IN, RANK))
        t = [random(RANK, RANK, 3, 3) for _ in "12"]
        halves = [tucker(t[i], a[i].T, b[i]) for i in (0, 1)]
        extra = {"hada_t1": t[0], "hada_t2": t[1]}
    else:
        a, b = [random(OUT, RANK) for _ in "12"], [random(RANK, IN * 9) for _ in "12"]
        halves = [(a[i] @ b[i]).reshape(base.shape) for i in (0, 1)]
        extra = {}
    tensors = {"hada_w1_a": a[0], "hada_w1_b": b[0], "hada_w2_a": a[1], "hada_w2_b": b[1], "alpha": torch.tensor(2.0)}
    expected = base + 2 / RANK * halves[0] * halves[1]
    assert close(adapter_from_tensors({**tensors, **extra}).weight(base), expected)


@pytest.mark.parametrize("second", ["whole", "low-rank", "tucker"])
@pytest.mark.parametrize("first", ["whole", "low-rank"])
def test_lokr_is_the_kronecker_product_at_every_kernel_position(first: str, second: str) -> None:
    base = random(OUT, IN, 3, 3)
    tensors = {"alpha": torch.tensor(1.0, dtype=torch.float64)}
    if first == "whole":
        w1 = tensors["lokr_w1"] = random(2, 3)
    else:
        tensors |= {"lokr_w1_a": random(2, RANK), "lokr_w1_b": random(RANK, 3)}
        w1 = tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
    if second == "whole":
        w2 = tensors["lokr_w2"] = random(4, 2, 3, 3)
    elif second == "low-rank":
        tensors |= {"lokr_w2_a": random(4, RANK), "lokr_w2_b": random(RANK, 2 * 9)}
        w2 = (tensors["lokr_w2_a"] @ tensors["lokr_w2_b"]).reshape(4, 2, 3, 3)
    else:
        tensors |= {"lokr_w2_a": random(RANK, 4), "lokr_w2_b": random(RANK, 2), "lokr_t2": random(RANK, RANK, 3, 3)}
        w2 = tucker(tensors["lokr_t2"], tensors["lokr_w2_a"].T, tensors["lokr_w2_b"])
    expected = torch.empty_like(base)
    for h in range(3):
        for w in range(3):
            expected[:, :, h, w] = torch.kron(w1, w2[:, :, h, w].contiguous())
    scale = 1.0 if (first, second) == ("whole", "whole") else 1 / RANK
    assert close(adapter_from_tensors(tensors).weight(base), base + scale * expected)


def test_lokr_tucker_conv_applies_where_view_fails() -> None:
    # The Tucker product has permuted strides in other readers, and their `view` of its Kronecker product raises.
    tensors = {"lokr_w1": random(2, 2), "lokr_w2_a": random(RANK, 4), "lokr_w2_b": random(RANK, 3)}
    adapter = adapter_from_tensors({**tensors, "lokr_t2": random(RANK, RANK, 3, 3)})
    weight = adapter.weight(random(OUT, IN, 3, 3))
    assert weight.is_contiguous() and weight.shape == (OUT, IN, 3, 3)


@pytest.mark.parametrize("naming", ["new", "old"])
def test_glora_is_right_in_both_namings(base: Tensor, naming: str) -> None:
    ones = [1] * (base.dim() - 2)
    input_up, input_down = random(IN, RANK), random(RANK, IN)
    up, down = random(OUT, RANK), random(RANK, *base.shape[1:])
    names = ("a1", "a2", "b1", "b2") if naming == "new" else ("a2", "a1", "b2", "b1")
    values = (
        input_up.reshape(IN, RANK, *ones),
        input_down.reshape(RANK, IN, *ones),
        up.reshape(OUT, RANK, *ones),
        down,
    )
    tensors = {f"{name}.weight": value for name, value in zip(names, values)}
    adapter = adapter_from_tensors({**tensors, "alpha": torch.tensor(1.5)})
    mixed = each_position(base, lambda w: w @ input_up @ input_down)
    product = (up @ down.reshape(RANK, -1)).reshape(base.shape)
    assert adapter.fits(tuple(base.shape))
    assert close(adapter.weight(base), base + 1.5 / RANK * (mixed + product))


def rotation(block: Tensor) -> Tensor:
    skew, identity = block - block.T, torch.eye(block.shape[0], dtype=torch.float64)
    return (identity + skew) @ torch.linalg.inv(identity - skew)


def clamped(blocks: Tensor, constraint: float) -> Tensor:
    norm = (blocks - blocks.transpose(-1, -2)).norm()
    return blocks * min(1.0, float(constraint * OUT / norm))


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("constraint", [0.0, 0.05, 100.0])
def test_diag_oft_turns_output_channels_block_by_block(base: Tensor, constraint: float, rescaled: bool) -> None:
    blocks = random(2, 4, 4)
    tensors = {"oft_blocks": blocks, "alpha": torch.tensor(constraint, dtype=torch.float64)}
    gain = random(OUT, *[1] * (base.dim() - 1)) if rescaled else torch.ones(1, dtype=torch.float64)
    if rescaled:
        tensors["rescale"] = gain
    bounded = clamped(blocks, constraint) if constraint else blocks
    turn = torch.block_diag(*(rotation(block) for block in bounded))
    expected = gain * each_position(base, lambda w: turn.T @ w)
    weight = adapter_from_tensors(tensors).weight(base)
    assert (weight - expected).norm() <= 1e-7 * expected.norm()  # the trained forward adds 1e-8 to the norm
    # Stored without its bound, the same rotation comes out for readers that know no constraint.
    unbounded = {
        **tensors,
        "oft_blocks": generators(blocks, constraint * OUT) / 2 if constraint else blocks,
        "alpha": torch.tensor(0.0),
    }
    assert close(adapter_from_tensors(unbounded).weight(base), weight)


def test_small_rotations_keep_their_precision_in_float32() -> None:
    base, blocks = random(64, 32), random(4, 16, 16) * 1e-5
    exact = adapter_from_tensors({"oft_blocks": blocks}).delta(base)
    single = adapter_from_tensors({"oft_blocks": blocks.float()}).delta(base.float())
    assert (single.double() - exact).norm() <= 1e-5 * exact.norm()


def test_kohya_oft_keeps_its_constraint() -> None:
    # kohya's OFT: dim counts blocks, alpha times the output width bounds the norm, rotation of the outputs.
    base, blocks = random(OUT, IN), random(4, 2, 2)
    skew = blocks - blocks.transpose(1, 2)
    norm = skew.norm()
    bounded = skew * ((norm.clamp(max=0.02 * OUT) + 1e-8) / (norm + 1e-8))
    turn = torch.block_diag(*(rotation(block / 2) for block in bounded))
    adapter = adapter_from_tensors({"oft_blocks": blocks, "alpha": torch.tensor(0.02, dtype=torch.float64)})
    expected = turn.T @ base
    assert (adapter.weight(base) - expected).norm() <= 1e-7 * expected.norm()


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_boft_is_a_product_of_permuted_block_rotations(base: Tensor, stages: int) -> None:
    size = 2
    blocks = random(stages, OUT // size, size, size)
    expected = base
    for stage in range(stages):
        order = butterfly_order(OUT, 2**stage * size)
        mixing = torch.eye(OUT, dtype=torch.float64)[order]
        turn = mixing.T @ torch.block_diag(*(rotation(block) for block in blocks[stage])) @ mixing
        expected = each_position(expected, lambda w, turn=turn: turn @ w)
    assert close(adapter_from_tensors({"oft_blocks": blocks}).weight(base), expected)


def butterfly_order(count: int, group: int) -> list[int]:
    """Channels so that within every group channel i of the lower half stands beside channel i of the upper half."""
    order = []
    for start in range(0, count, group):
        for i in range(group // 2):
            order += [start + i, start + group // 2 + i]
    return order


@pytest.mark.parametrize("on_input", [0, 1])
def test_ia3_scales_channels_of_one_side(base: Tensor, on_input: int) -> None:
    gains = random(IN if on_input else OUT)
    stored = gains if base.dim() == 2 else gains.reshape(1, -1, 1, 1)
    adapter = adapter_from_tensors({"weight": stored, "on_input": torch.tensor(on_input)})
    diagonal = torch.diag(1 + gains)
    expected = each_position(base, lambda w: w @ diagonal if on_input else diagonal @ w)
    assert close(adapter.weight(base), expected)


def test_full_and_norm_differences_are_added_to_weight_and_bias() -> None:
    for weight_name, bias_name, shape in (("diff", "diff_b", (OUT, IN)), ("w_norm", "b_norm", (OUT,))):
        base, base_bias, diff, diff_b = random(*shape), random(OUT), random(*shape), random(OUT)
        adapter = adapter_from_tensors({weight_name: diff, bias_name: diff_b})
        assert adapter.fits(shape)
        for strength in (0.0, 0.6, -0.5, 1.0, 2.0):
            assert close(patch(base, adapter, strength), base + strength * diff)
            changed = patch_bias(base_bias, adapter, strength)
            assert changed is not None and close(changed, base_bias + strength * diff_b)


def inner_tensors(algorithm: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    ones = [1] * (len(shape) - 2)
    return {
        "lora": {"lora_up.weight": random(OUT, RANK, *ones), "lora_down.weight": random(RANK, *shape[1:])},
        "loha": {
            **{f"hada_w{i}_a": random(OUT, RANK) for i in (1, 2)},
            **{f"hada_w{i}_b": random(RANK, math.prod(shape[1:])) for i in (1, 2)},
        },
        "lokr": {"lokr_w1": random(2, 2), "lokr_w2": random(4, 3, *shape[2:])},
        "glora": {
            "a1.weight": random(IN, RANK, *ones),
            "a2.weight": random(RANK, IN, *ones),
            "b1.weight": random(OUT, RANK, *ones),
            "b2.weight": random(RANK, *shape[1:]),
        },
        "diag-oft": {"oft_blocks": random(2, 4, 4)},
        "boft": {"oft_blocks": random(2, 2, 4, 4)},
        "ia3": {"weight": random(OUT), "on_input": torch.tensor(0)},
        "full": {"diff": random(*shape)},
    }[algorithm]


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr", "glora", "diag-oft", "boft", "ia3", "full"])
def test_dora_sets_the_norms_of_the_inner_weight_on_either_axis(base: Tensor, algorithm: str, axis: str) -> None:
    inner = inner_tensors(algorithm, tuple(base.shape))
    ones = [1] * (base.dim() - 2)
    magnitude = random(OUT, 1, *ones) if axis == "output" else random(1, IN, *ones)
    adapter = adapter_from_tensors({**inner, "dora_scale": magnitude})
    assert adapter.describe()["dora"] == axis and adapter.fits(tuple(base.shape))
    weight = adapter.weight(base)
    dims = [d for d in range(base.dim()) if d != (0 if axis == "output" else 1)]
    assert close(weight.pow(2).sum(dims).sqrt(), magnitude.flatten().abs())
    direction = adapter_from_tensors(inner).weight(base)
    gain = weight / direction
    assert close(gain, gain.mean(dims, keepdim=True).expand_as(gain))
    for strength in (0.6, -0.5, 2.0):
        assert close(patch(base, adapter, strength), base + strength * (weight - base))


def test_dora_magnitudes_of_peft_belong_to_outputs_whatever_their_shape() -> None:
    base = random(OUT, IN, 3, 3)
    inner = inner_tensors("lora", tuple(base.shape))
    magnitude = random(1, OUT, 1, 1).abs()
    weight = adapter_from_tensors({**inner, "lora_magnitude_vector": magnitude}).weight(base)
    assert close(weight.flatten(1).norm(dim=1), magnitude.flatten())


@pytest.mark.parametrize("terms", [0, 2, 5, 7])
@pytest.mark.parametrize("shared", [False, True])
def test_oftv2_equals_a_linear_layer_on_rotated_inputs(shared: bool, terms: int) -> None:
    size, inputs = 4, 12
    base, x = random(OUT, inputs), random(5, inputs)
    upper = random(1 if shared else 3, size * (size - 1) // 2) * 0.3
    turns = []
    for row in upper:
        skew = torch.zeros(size, size, dtype=torch.float64)
        skew[tuple(torch.triu_indices(size, size, 1))] = row
        skew = skew - skew.T
        identity = torch.eye(size, dtype=torch.float64)
        series = identity + 2 * sum(torch.linalg.matrix_power(skew, n) for n in range(1, max(terms - 1, 2)))
        if terms > 2:
            series = series + torch.linalg.matrix_power(skew, terms - 1)
        turns.append(series if terms else (identity - skew) @ torch.linalg.inv(identity + skew))
    turn = torch.block_diag(*(turns * 3 if shared else turns))
    adapter = adapter_from_tensors({"oft_R.weight": upper}, FileOptions(cayley_terms=terms))
    assert adapter.fits((OUT, inputs)) and adapter.describe()["dim"] == size
    assert close(x @ adapter.weight(base).T, (x @ turn) @ base.T)


def test_oftv2_convolutions_turn_one_way_in_onetrainer_and_the_other_in_peft() -> None:
    base, upper = random(OUT, 4, 3, 3), random(9, 6) * 0.1
    one, other = (
        adapter_from_tensors({"oft_R.weight": upper * sign}, FileOptions(peft=peft)).weight(base)
        for sign, peft in ((1, False), (-1, True))
    )
    # The series of -Q is the transposed series of Q, so turning by its transpose is the same.
    assert close(one, other)
    assert not close(one, adapter_from_tensors({"oft_R.weight": upper}, FileOptions(peft=True)).weight(base))


def test_oftv2_magnitudes_are_relative_to_the_base_weights_norms() -> None:
    base, upper, magnitude = random(OUT, 8), random(2, 6) * 0.1, random(OUT, 1)
    turned = adapter_from_tensors({"oft_R.weight": upper}).weight(base)
    expected = turned * magnitude / base.norm(dim=1, keepdim=True)
    assert close(adapter_from_tensors({"oft_R.weight": upper, "dora_scale": magnitude}).weight(base), expected)
    halved = adapter_from_tensors({"oft_R.weight": upper * math.sqrt(6), "oft_R.scaled_oft": torch.tensor(1)})
    assert close(halved.weight(base), turned)


def test_several_adapters_apply_each_to_the_weight_the_one_before_left() -> None:
    base = random(OUT, IN)
    first = adapter_from_tensors(inner_tensors("lora", (OUT, IN)))
    second = adapter_from_tensors(inner_tensors("diag-oft", (OUT, IN)))
    middle = base + 0.5 * first.delta(base)
    assert close(patch(patch(base, first, 0.5), second, 2.0), middle + 2 * (second.weight(middle) - middle))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_bases_are_patched_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    base = random(OUT, IN).to(dtype)
    adapter = adapter_from_tensors(inner_tensors("lora", (OUT, IN)))
    expected = torch.add(base.float(), adapter.delta(base.float()), alpha=0.6).to(dtype)
    assert torch.equal(patch(base, adapter, 0.6), expected)


def test_gradients_reach_the_adapters_tensors() -> None:
    base = random(OUT, IN)
    for algorithm in ("lora", "loha", "lokr", "glora", "diag-oft", "boft", "ia3", "full"):
        tensors = inner_tensors(algorithm, (OUT, IN))
        leaves = [tensor.requires_grad_() for tensor in tensors.values() if tensor.is_floating_point()]
        adapter_from_tensors({**tensors, "dora_scale": random(OUT, 1)}).weight(base).square().sum().backward()
        assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


WRONG = {
    "a rank that differs": {"lora_up.weight": torch.zeros(8, 3), "lora_down.weight": torch.zeros(2, 6)},
    "a missing factor": {"lora_up.weight": torch.zeros(8, 3)},
    "half a tucker core": {
        **{f"hada_w{i}_{s}": torch.zeros(3, 3) for i in "12" for s in "ab"},
        "hada_t1": torch.zeros(3),
    },
    "no known name": {"something.else": torch.zeros(1)},
    "blocks that are not square": {"oft_blocks": torch.zeros(2, 4, 3)},
    "an impossible butterfly": {"oft_blocks": torch.zeros(3, 2, 4, 4)},
    "a triangle that is none": {"oft_R.weight": torch.zeros(2, 5)},
}


@pytest.mark.parametrize("tensors", WRONG.values(), ids=WRONG)
def test_tensors_that_do_not_belong_together_are_refused_in_a_sentence(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(FileFormatError, match=r"\.$"):
        adapter_from_tensors(tensors)


def test_an_adapter_knows_which_weights_it_fits() -> None:
    for algorithm in ("lora", "loha", "lokr", "glora", "diag-oft", "boft", "ia3", "full"):
        for shape in SHAPES.values():
            adapter = adapter_from_tensors(inner_tensors(algorithm, shape))
            assert adapter.fits(shape)
            assert not adapter.fits((OUT * 2, *shape[1:]))
            assert not adapter.fits((OUT,))
            if algorithm not in ("diag-oft", "boft", "ia3"):
                assert not adapter.fits((OUT, IN * 2, *shape[2:]))


def test_tensors_of_any_shape_either_fit_and_compute_or_are_refused() -> None:
    chance = random_module.Random(0)
    bases = [(8, 8), (8, 12), (8, 8, 3, 3), (16, 8), (8, 8, 1, 1), (8,)]
    computed = refused = 0
    for _ in range(600):
        tensors = random_tensors(chance.choice(ALGORITHMS), chance.choice(bases[:4]), bias=True)
        for suffix in list(tensors):
            change = chance.random()
            if change < 0.1:
                del tensors[suffix]
            elif change < 0.2 and suffix not in ("alpha", "on_input"):
                tensors[suffix] = torch.randn([chance.randint(1, 9) for _ in range(chance.randint(0, 5))])
            elif change < 0.3 and suffix not in ("alpha", "on_input"):
                tensors[suffix] = tensors[suffix].flatten()
        for extra in ("dora_scale", "rescale", "lora_mid.weight", "lokr_t2", "bm.weight"):
            if chance.random() < 0.1:
                tensors[extra] = torch.randn([chance.choice([1, 2, 3, 8]) for _ in range(chance.randint(0, 4))])
        try:
            adapter = adapter_from_tensors(tensors)
        except FileFormatError:
            refused += 1
            continue
        adapter.describe()
        for shape in filter(adapter.fits, bases):
            weight = torch.randn(shape)
            assert adapter.delta(weight).shape == weight.shape
            computed += 1
    assert computed > 200 and refused > 100
