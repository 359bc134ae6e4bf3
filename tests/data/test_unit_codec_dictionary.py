"""Sequences of units and codec tokens beside those of the public code."""

from __future__ import annotations

import json

import pytest
import torch

from speechdlm_ext.data.unit_codec_dictionary import UnitCodecDictionary
from speechdlm_ext.errors import InputError
from tests.helpers.references import reference_path


@pytest.mark.parametrize("name", ["A", "B"])
def test_training_sequences_are_those_of_the_public_code(name: str) -> None:
    tokenizer = torch.load(reference_path(f"ellav/{name}") / "model.pt", weights_only=True)["tokenizer"]
    dictionary = UnitCodecDictionary.of_published(tokenizer, "model.pt")
    assert dictionary.published() == tokenizer
    plain = UnitCodecDictionary.of_sizes(tokenizer["num_phone_types"], tokenizer["num_codec_types"])
    assert plain.token_to_id == dictionary.token_to_id
    items = json.loads((reference_path(f"ellav/{name}") / "training.json").read_text())["items"]
    for item in items:
        if "refused" in item:
            with pytest.raises(InputError, match=r"1\.00 s, 45 codec tokens 1\.12 s"):
                dictionary.sequence(item["units"], item["codec"])
            continue
        ids, given = dictionary.sequence(item["units"], item["codec"], published_mask=True)
        assert ids.tolist() == item["ids"], item["name"]
        assert given.long().tolist() == item["user_input_mask"], item["name"]


def test_units_and_tokens_out_of_range_are_named() -> None:
    dictionary = UnitCodecDictionary.of_sizes(3, 8)
    assert dictionary.unit_ids(["u2", 2, "1"]) == [dictionary.token_to_id["u2"], dictionary.token_to_id["u1"]]
    with pytest.raises(InputError, match=r"row 7: u3 is no unit of this model, which has 3 \(u0 … u2\)"):
        dictionary.unit_ids([0, 3], "row 7")
    with pytest.raises(InputError, match="codec token 8, this model has 0 to 7"):
        dictionary.sequence([0] * 5, [1, 2, 8, 0])
    with pytest.raises(InputError, match="has no BOS"):
        UnitCodecDictionary({"UNK": 0}, 0)


def test_a_codec_token_belongs_to_the_unit_in_which_it_begins() -> None:
    dictionary = UnitCodecDictionary.of_sizes(4, 100)
    ids, _ = dictionary.sequence([0, 1, 1, 1, 2], [10, 11, 12, 13])
    names = {i: token for token, i in dictionary.token_to_id.items()}
    # At 50 and 40 Hz, token 1 begins after 25 ms, within the second frame; token 3 after 75 ms, in the fourth.
    assert [names[i] for i in ids.tolist()][4:] == [
        "u0",
        "10",
        "EOP",
        "u1",
        "11",
        "12",
        "13",
        "EOP",
        "u2",
        "EOP",
        "EOS",
    ]
