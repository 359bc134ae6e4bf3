"""Options as name=value: typed, and what is wrong is named."""

import pytest

from speechdlm_ext.commands.overrides import read_overrides
from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.salm import SALMEvalOptions

NEEDED = ["pretrained_name=a:b", "inputs=1"]


def test_values_have_the_types_of_the_options():
    options = read_overrides(SALMEvalOptions, [*NEEDED, "batch_size=3", "extra_eos_tokens=[a, b]"], "")
    assert (options.pretrained_name, options.inputs, options.batch_size) == ("a:b", "1", 3)
    assert list(options.extra_eos_tokens) == ["a", "b"] and options.max_new_tokens == 128


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("batch_size=x", "batch_size=x: Value 'x' could not be converted to Integer"),
        ("batch_size=[", r"batch_size=\[: while parsing"),
        ("size=3", "size=3: expected name=value, with a name of pretrained_name"),
        ("batch_size", "batch_size: expected name=value"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(word, message):
    with pytest.raises(InputError, match=message) as error:
        read_overrides(SALMEvalOptions, [*NEEDED, word], "")
    assert "\n" not in str(error.value)


def test_what_is_needed_is_said():
    with pytest.raises(InputError, match="inputs= is needed"):
        read_overrides(SALMEvalOptions, NEEDED[:1], "")
