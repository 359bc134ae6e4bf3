"""A checkpoint of a unit-to-codec model continues with the sizes and rates that it was trained with, and no others."""

from __future__ import annotations

import pytest

from speechdlm_ext.data.unit_codec_dictionary import UnitCodecDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.tasks.unit_to_codec_task import UnitToCodecTask, UnitToCodecTaskConfig


def task(**options: int) -> UnitToCodecTask:
    return UnitToCodecTask.setup_task(UnitToCodecTaskConfig(units=6, codec_types=12, **options))


def test_a_checkpoint_of_other_rates_sizes_or_names_is_refused() -> None:
    kept = task().state_dict()
    task().load_state_dict(kept)
    task().load_state_dict({})
    with pytest.raises(InputError, match=r"of --unit-rate and --codec-rate 50 and 40, 50 and 75 were given"):
        task(codec_rate=75).load_state_dict(kept)
    other = UnitToCodecTask.setup_task(UnitToCodecTaskConfig(units=7, codec_types=12))
    with pytest.raises(InputError, match=r"of --units and --codec-types 6 and 12, 7 and 12 were given"):
        other.load_state_dict(kept)
    ids = {token.replace("u3", "AA"): i for token, i in task().dictionary.token_to_id.items()}
    with pytest.raises(InputError, match="units have other names"):
        task().load_state_dict({"tokenizer": UnitCodecDictionary(ids, 12).published()})


@pytest.mark.parametrize("codec_tokens", [36, 44])
def test_units_and_codec_tokens_may_differ_by_a_tenth_of_a_second(codec_tokens: int) -> None:
    dictionary = UnitCodecDictionary.of_sizes(3, 8)
    more = 1 if codec_tokens > 40 else -1
    assert len(dictionary.sequence([1] * 50, [0] * codec_tokens).ids) == codec_tokens + 5
    with pytest.raises(InputError, match=r"may differ by 0\.1 s"):
        dictionary.sequence([1] * 50, [0] * (codec_tokens + more))
