"""Gradients against finite differences, in float64: every loss, every method's whole loss, and a
step's own gradient.
"""

import pytest

from tests.support import properties
from tests.support.differences import check_losses, check_whole_loss, error_of_a_step
from tests.support.steps import rendered

pytestmark = pytest.mark.usefixtures("graded_by_parity")


@pytest.mark.parametrize("seed", [0, 1])
def test_every_loss(seed):
    check_losses(seed)


@pytest.mark.parametrize("name", properties.TRAINED)
def test_whole_loss_of_every_method(name):
    check_whole_loss(name, seed=0)


@pytest.mark.parametrize("name", properties.TRAINED)
def test_the_gradient_that_a_step_accumulates(name, model64, tokenizer, he, start):
    state = start(model64, properties.acting(name), micro_tokens=60)
    assert error_of_a_step(name, state, rendered(tokenizer, he), each=False) < 1e-6


@pytest.mark.parametrize("name", ["grpo", "policy_split_released", "entropy_regularization"])
def test_the_gradient_is_of_the_policy_at_the_sampling_temperature(
    name,
    model64,
    tokenizer,
    he,
    start,
):
    state = start(model64, properties.acting(name), micro_tokens=60, temperature=0.6)
    assert (
        error_of_a_step(name, state, rendered(tokenizer, he), each=False) < 1e-5
    )  # sharper distributions bend more within the step of the difference
