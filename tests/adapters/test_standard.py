"""The layers of the released models, as written down here, are those of their real files."""

from __future__ import annotations

import pytest

from adapter_lab.adapters.keys import targets
from adapter_lab.adapters.standard import standard_targets
from tests.adapters.layouts import real_shapes


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_the_layers_of_a_released_model_are_those_of_its_real_file(family: str) -> None:
    assert dict(standard_targets(family)) == dict(targets(real_shapes(family)))
