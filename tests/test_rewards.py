"""Rewards: what counts as a boxed answer and when it is right; nothing in a response can hang or crash the grader."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pslib import rewards


@pytest.mark.parametrize("text, content", [
    (r"\boxed{42}", "42"),
    (r"So it is \boxed{42}.", "42"),
    (r"\boxed{1} no, \boxed{2}", "2"),  # the last one counts, also on one line
    ("\\boxed{1}\nthen\n\\boxed{2}", "2"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),  # braces are matched, not searched greedily
    (r"\boxed{{a}{b{c}}} and {more}", "{a}{b{c}}"),
    (r"\boxed{\boxed{5}}", "5"),  # of nested boxes, the one that opens last
    (r"\boxed{7} or \boxed{8", "7"),  # cut off: the last whole one
    ("\\boxed{4\n2}", "4\n2"),
    (r"\boxed{}", ""),
    (r"\boxed{", None),
    (r"\boxed{{1}", None),
    (r"boxed{1}", None),
    (r"\boxed 5", None),
    ("42", None),
    ("", None),
    ("\\boxed{" + "7" * 200 + "}", "7" * 200),  # as long as an answer may be
    ("\\boxed{" + "7" * 201 + "}", None),
])
def test_boxed_gives_the_last_box_whose_braces_match(text, content):
    assert rewards.boxed(text) == content


@pytest.mark.parametrize("given_answer, answer", [
    ("42", "42"), (" 42 ", "42"), ("42", " 42\n"), ("$42$", "42"), ("+42", "42"), ("042", "42"),
    ("-3", "-3"), ("42.0", "42"), ("0.50", "0.5"), ("-0", "0"),
    ("1,234", "1234"), ("1/2", "0.5"), ("2/4", "1/2"), ("6/3", "2"), ("-1/2", "-0.5"),
    (r"\frac{1}{2}", "1/2"), (r"\dfrac{1}{2}", "0.5"), (r"\frac{-1}{2}", "-0.5"), (r"-\frac{1}{2}", "-1/2"),
    (r"\frac{3}{6}", r"\frac{1}{2}"),
    ("0.1", "1/10"),  # exactly, not as a binary float
    ("1" * 40, "1" * 40), (r"x^2+1", r"x^2+1"), ("B", "B"),
])
def test_a_right_answer_is_graded_one(given_answer, answer):
    assert rewards.grade(f"It is \\boxed{{{given_answer}}}.", answer) == 1.0


@pytest.mark.parametrize("given_answer, answer", [
    ("41", "42"), ("-42", "42"), ("4 2", "42"), ("42.01", "42"), ("420", "42"), ("42 apples", "42"),
    ("", ""), ("  ", "0"), ("", "0"),
    ("1/3", "0.333333333333"),  # close is not equal
    ("1/0", "1"), ("0/0", "0"), ("1/0", "2/0"), (r"\frac{1}{0}", "1"), ("1/00", "1"), (r"\frac{0}{0}", "0"),
    ("9**9**9", "1"), ("9^{9^9}", "1"), ("__import__('os')", "1"), ("40+2", "42"),  # nothing is evaluated
    ("1" * 40 + "0", "1" * 40), ("\u0664\u0662", "42"),  # digits of another script
    ("b", "B"), ("1e2", "100"), ("nan", "nan1"), ("inf", "1"), ("--1", "1"), ("1/-2", "-0.5"), ("1.5/2", "0.75"),
])
def test_a_wrong_or_unreadable_answer_is_graded_zero(given_answer, answer):
    assert rewards.grade(f"It is \\boxed{{{given_answer}}}.", answer) == 0.0


def test_an_answer_outside_a_box_or_in_an_earlier_box_does_not_count():
    assert rewards.grade("The answer is 42.", "42") == 0.0
    assert rewards.grade(r"\boxed{42} or rather \boxed{43}", "42") == 0.0


def test_the_same_box_twice_is_right():
    # the released code's greedy pattern takes `5} so \boxed{5` here and gives 0
    assert rewards.grade(r"\boxed{5} so \boxed{5}", "5") == 1.0


@pytest.mark.parametrize("text", [
    "\\boxed{" * 3000, "{" * 100000, "\\boxed{" + "{" * 100000, "\\boxed{" + "9" * 100000 + "}", "a" * 10**6,
])
def test_a_very_long_response_is_wrong_and_ends(text):
    assert rewards.grade(text, "9") == 0.0


@settings(max_examples=100)
@given(st.text(alphabet="\\boxed{}frac0123456789/.,-+$ ", max_size=60), st.text(alphabet="0123456789/.-", max_size=6))
def test_any_text_is_graded_zero_or_one(text, answer):
    assert rewards.grade(text, answer) in (0.0, 1.0)
    assert rewards.grade("\\boxed{" + text, answer) in (0.0, 1.0)


@settings(max_examples=100)
@given(st.integers(-10**6, 10**6), st.integers(1, 999), st.integers(1, 9))
def test_a_fraction_equals_its_multiples_and_nothing_next_to_it(top, bottom, times):
    boxed = f"\\boxed{{{top * times}/{bottom * times}}}"
    assert rewards.grade(boxed, f"{top}/{bottom}") == 1.0
    assert rewards.grade(boxed, f"{top + 1}/{bottom}") == 0.0


@pytest.mark.parametrize("text, answer, right", [
    ("\\boxed{5} so \\boxed{" + "9" * 201 + "}", "5", 0.0),  # the last box counts, even if it is too long to read
    ("\\boxed{1,2}", "12", 0.0),
    ("\\boxed{1,234}", "1234", 1.0),
    ("\\boxed{2$3}", "23", 0.0),
    ("\\boxed{$23$}", "23", 1.0),
    ("\\boxed{3\\frac{1}{2}}", "31/2", 0.0),
    ("\\boxed{-\\frac{1}{2}}", "-0.5", 1.0),
])
def test_what_only_looks_like_the_answer_is_wrong(text, answer, right):
    assert rewards.grade(text, answer) == right
