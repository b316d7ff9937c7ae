"""The properties of tests/support/properties.py, a few cases each; three need a model: padding on
both sides, micro-batches.
"""

import pytest

from tests.support import properties

pytestmark = pytest.mark.usefixtures("graded_by_parity")


def tried_and_survived(check, strategies, cases):
    counts = {"tried": 0, "survived": 0}
    properties.prove(check, strategies, cases, counts)
    return counts


@pytest.mark.parametrize("name", properties.PROPERTIES)
def test_property(name):
    assert tried_and_survived(*properties.PROPERTIES[name], cases=15)["survived"] >= 15


def test_scoring_does_not_see_padding_or_neighbours(model64):
    assert (
        tried_and_survived(
            *properties.scoring_does_not_see_padding_or_neighbours(model64), cases=10
        )["survived"]
        >= 10
    )


def test_responses_do_not_depend_on_the_prompts_beside_them(model64, tokenizer):
    assert (
        tried_and_survived(
            *properties.responses_do_not_depend_on_the_prompts_beside_them(model64, tokenizer), 8
        )["survived"]
        >= 8
    )


def test_the_gradient_does_not_depend_on_micro_batches(model64, start):
    assert (
        tried_and_survived(
            *properties.the_gradient_does_not_depend_on_micro_batches(model64, start), cases=10
        )["survived"]
        >= 10
    )
