"""Units to codec tokens beside the public code, and by the rules that the reference states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechdlm_ext.checkpoints.ellav import read_unit_to_codec
from speechdlm_ext.data.unit_codec_dictionary import UNK
from speechdlm_ext.generation.unit_to_codec import CodecOptions, CodecPrompt, generate_codec
from speechdlm_ext.models.unit_to_codec import UnitToCodec
from tests.helpers.dpslm import acoustic_model
from tests.helpers.references import reference_path
from tests.helpers.unit_models import plain_logits


@pytest.fixture(scope="module", params=["A", "B"])
def trained(request: pytest.FixtureRequest) -> tuple[UnitToCodec, Path]:
    folder = reference_path(f"ellav/{request.param}")
    return read_unit_to_codec(folder / "model.pt"), folder


@torch.no_grad()
def test_logits_are_those_of_the_public_code(trained: tuple[UnitToCodec, Path]) -> None:
    model, folder = trained
    arrays = np.load(folder / "logits.npz")
    start = 0
    for length in arrays["seqlens"].tolist():
        ids = torch.from_numpy(arrays["ids"][start : start + length]).long()
        found = model(ids.unsqueeze(0))[0][0]
        assert (found - torch.from_numpy(arrays["logits"][start : start + length])).abs().max() < 1e-4
        start += length


@torch.no_grad()
def test_losses_are_those_of_the_public_code(trained: tuple[UnitToCodec, Path]) -> None:
    model, folder = trained
    for item in json.loads((folder / "training.json").read_text())["items"]:
        if "refused" in item:
            continue
        for published, name in ((True, "public"), (False, "without_first_unit")):
            ids, given = model.dictionary.sequence(item["units"], item["codec"], published_mask=published)
            unknown = ids == model.dictionary.token_to_id[UNK]
            target = ids.masked_fill(given | unknown, -100)[1:]
            found = F.cross_entropy(model(ids[:-1].unsqueeze(0))[0][0], target, ignore_index=-100)
            assert int((target >= 0).sum()) == item[f"targets_{name}"]
            assert float(found) == pytest.approx(item[f"loss_{name}"], rel=1e-5)


def generate(model: UnitToCodec, folder: Path, number: int, case: dict[str, Any], published: bool) -> list[Any]:
    given = {name: value for name, value in case["options"].items() if name != "chunk_size"}
    drawn = np.load(folder / "generation.npz")
    uniforms = drawn.get(f"{number}_uniforms", drawn.get(f"{case['name']}_uniforms"))
    prompts = [CodecPrompt(model.dictionary.unit_ids(units, strict=False)) for units in case["prompts"]]
    draws = []
    for row in range(len(prompts)):
        numbers = iter(() if uniforms is None else [*uniforms[:, row], *[0.5] * 64])
        draws.append(lambda n, numbers=numbers: np.array([next(numbers) for _ in range(n)]))
    options = CodecOptions(**given, published_limits=published)
    return generate_codec(model.decoder, model.dictionary, prompts, options, draws)


@pytest.mark.commands
def test_rows_are_decoded_by_the_stated_rules(trained: tuple[UnitToCodec, Path]) -> None:
    model, folder = trained
    cases = json.loads((folder / "generation.json").read_text())
    tried = 0
    for number, case in enumerate(cases):
        if "corrected" not in case:
            continue
        for found, expected in zip(generate(model, folder, number, case, False), case["corrected"], strict=True):
            assert found.ids == expected["ids"], case["name"]
            assert found.codec == expected["codec"] and found.codec_per_unit == expected["codec_per_unit"], case["name"]
            assert found.finished == expected["finished"], case["name"]
            tried += 1
    assert tried >= 4


@pytest.mark.commands
def test_with_the_published_limits_the_codec_tokens_are_the_public_codes(
    trained: tuple[UnitToCodec, Path],
) -> None:
    model, folder = trained
    cases = json.loads((folder / "generation.json").read_text())
    for number, case in enumerate(cases):
        if "error" in case["public"] or not case["public"]["codec"]:  # a batch that ends at once gives no rows there
            continue
        found = generate(model, folder, number, case, True)
        assert [row.codec for row in found] == case["public"]["codec"], case["name"]
        assert [row.finished for row in found] == case["public"]["finished"], case["name"]


@pytest.fixture(scope="module")
def small() -> UnitToCodec:
    model: UnitToCodec = acoustic_model(12, std=0.3).model
    return model


@torch.no_grad()
def test_logits_are_those_of_the_published_formulas(small: UnitToCodec) -> None:
    ids = torch.randint(0, len(small.dictionary), (1, 23), generator=torch.Generator().manual_seed(1))
    weights = {name.removeprefix("decoder."): tensor for name, tensor in small.state_dict().items()}
    wanted = plain_logits(weights, ids[0].tolist(), 2, 2) + weights["output.bias"].double()
    assert (small(ids)[0][0].double() - wanted).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("top_p", [0.0, 0.8])
@pytest.mark.parametrize("published", [False, True])
def test_decoding_is_that_of_the_rules_without_a_cache(small: UnitToCodec, published: bool, top_p: float) -> None:
    """The rules of the reference's README, one row and one token at a time."""
    dictionary, most = small.dictionary, 3
    end, uniforms = dictionary.token_to_id["EOP"], np.random.default_rng(5).random((2, 400))
    rows = [dictionary.unit_ids(units) for units in ((3, 8, 1, 8), (5, 2, 11, 0, 7, 4))]
    streams = [iter(one) for one in uniforms]
    draws = [lambda n, numbers=numbers: np.array([next(numbers) for _ in range(n)]) for numbers in streams]
    options = CodecOptions(300, most, 0.9, top_p, published)
    found = generate_codec(small.decoder, dictionary, [CodecPrompt(row) for row in rows], options, draws)
    for units, numbers, one in zip(rows, uniforms, found, strict=True):
        made: list[int] = []
        read, unit, tokens = [*units, dictionary.bos(), units[0]], 0, 0
        while made.count(end) < len(units) and len(made) < 300:
            if made and made[-1] == end:
                unit, tokens = unit + 1, 0
                made.append(units[unit])
                continue
            logits = small(torch.tensor([read + made]))[0][0, -1].double()
            if not published:
                allowed = [*dictionary.codec_ids.tolist(), end]
                logits = torch.full_like(logits, -torch.inf).index_copy(0, torch.tensor(allowed), logits[allowed])
            probabilities, order = torch.softmax(logits / 0.9, 0).sort(descending=True)
            kept = [p if before <= top_p else 0.0 for p, before in zip(
                probabilities.tolist(), [0.0, *probabilities.cumsum(0).tolist()], strict=False)]  # fmt: skip
            place = int(np.searchsorted(np.cumsum(kept) / sum(kept), numbers[len(made)], "right")) if top_p else 0
            full = tokens >= most + (published and 1 + (unit == 0))
            made.append(end if full else int(order[place]))
            tokens += 1
        assert one.ids == made and one.finished


@pytest.mark.commands
def test_a_rows_samples_depend_on_its_own_numbers(small: UnitToCodec) -> None:
    model = small
    prompts = [
        CodecPrompt(model.dictionary.unit_ids(units)) for units in (["u3"], [f"u{n}" for n in range(12)], ["u4", "u1"])
    ]

    def run(rows: list[int]) -> list[Any]:
        draws = [np.random.default_rng(row).random for row in rows]
        return generate_codec(model.decoder, model.dictionary, [prompts[row] for row in rows], CodecOptions(), draws)

    together = run([0, 1, 2])
    assert together == [run([row])[0] for row in range(3)]
    assert len(together[1].codec) > 10


def test_an_empty_prompt_has_an_empty_answer(small: UnitToCodec) -> None:
    model = small
    units = model.dictionary.unit_ids(["u3", "u7"])

    def run(prompts: list[CodecPrompt]) -> list[Any]:
        draws = [lambda n: np.zeros(n)] * len(prompts)
        return generate_codec(model.decoder, model.dictionary, prompts, CodecOptions(top_p=0.0), draws)

    empty, beside = run([CodecPrompt([]), CodecPrompt(units)])
    assert empty.ids == [] and empty.finished and [beside] == run([CodecPrompt(units)])


@torch.no_grad()
@pytest.mark.parametrize("published", [False, True])
def test_units_of_known_durations_get_so_many_codec_tokens_whatever_the_model_prefers(published: bool) -> None:
    model: UnitToCodec = acoustic_model(12, std=0.3).model
    end = model.dictionary.token_to_id["EOP"]
    units = model.dictionary.unit_ids(["u3", "u8", "u1"])

    def lengths(bias: float) -> list[list[int]]:
        model.decoder.output.bias[end] = bias
        prompts = [CodecPrompt(units, counts=[4, 0, 15]), CodecPrompt(units, counts=[1, 2, 1]), CodecPrompt(units)]
        options = CodecOptions(max_codec_tokens_per_phone=2, top_p=0.0, published_limits=published)
        found = generate_codec(model.decoder, model.dictionary, prompts, options, [lambda n: np.zeros(n)] * 3)
        return [[len(codec) for codec in row.codec_per_unit] for row in found]

    assert lengths(1e4) == [[4, 0, 15], [1, 2, 1], [0, 0, 0]]  # it would end each unit at once
    assert lengths(-1e4)[:2] == [[4, 0, 15], [1, 2, 1]]  # it would never end one
