"""Decoding with unit language models: caches against the full forward, search against every sequence there is."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.generator import DialogueGenerator
from speechdlm_ext.generation.options import DecodingOptions
from speechdlm_ext.models.unit_lm import UnitLM
from tests.helpers.published import toy_model
from tests.helpers.unit_models import toy_unit_lm, toy_unit_lstm

KINDS = [
    (toy_unit_lm, {}),
    (toy_unit_lm, {"decoder_attention_heads": 4, "decoder_kv_heads": 2, "durations": True}),
    (toy_unit_lstm, {"durations": True}),
]
BUILDERS = [toy_unit_lm, toy_unit_lstm]


def generator(model: Any, **options: Any) -> DialogueGenerator:
    models = [m.eval() for m in (model if isinstance(model, list) else [model])]
    return DialogueGenerator(models, models[0].decoder.dictionary, DecodingOptions(**options))


def prompt(length: int, seed: int = 3, units: int = 20) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(1, units + 1, (length, 1), generator=random)


@torch.no_grad()
def whole(model: Any, rows: list[int]) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities ``(T + 1, V)`` and durations after BOS and each of the rows, without a cache."""
    logits, extra = model(torch.tensor([[0, *rows]]))
    return logits[0].log_softmax(-1), None if extra["durations"] is None else extra["durations"][0]


@pytest.mark.parametrize(("build", "options"), KINDS)
@pytest.mark.parametrize("chunks", [[1] * 13, [5, 1, 1, 3, 1, 2]])
@pytest.mark.parametrize("static", [False, True])
@torch.no_grad()
def test_cached_decoding_is_the_forward_without_a_cache(
    build: Any, options: dict, chunks: list[int], static: bool
) -> None:
    model = build(**options).eval()
    tokens = torch.randint(0, 21, (3, 13))
    logits, extra = model(tokens)
    cache = model.decoder.make_cache(13, static)
    at = 0
    for count in chunks:
        (found,), _ = model.decoder(tokens[:, at : at + count].unsqueeze(-1), cache=cache.extend(count))
        torch.testing.assert_close(found.units.squeeze(2), logits[:, at : at + count], atol=2e-5, rtol=1e-5)
        if extra["durations"] is None:
            assert found.durations is None
        else:
            expected = extra["durations"][:, at : at + count]
            torch.testing.assert_close(found.durations.squeeze(-1), expected, atol=2e-5, rtol=1e-5)
        at += count
        assert cache.length == at
        if at == 5:  # rows change places, as in a beam
            rows = torch.tensor([2, 0, 2])
            cache.select(rows)
            tokens = torch.cat([tokens[rows, :5], tokens[:, 5:]], 1)
            logits, extra = model(tokens)
    cache.clear()
    (again,), _ = model.decoder(tokens.unsqueeze(-1), cache=cache.extend(13))
    torch.testing.assert_close(again.units.squeeze(2), logits, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("build", BUILDERS)
def test_greedy_decoding_is_the_plain_loop(build: Any) -> None:
    model = build()
    prompts = [prompt(n, seed=n) for n in (4, 9, 1, 0)]
    for start, (best,) in zip(prompts, generator(model, max_len_b=25).generate(prompts, [0] * 4), strict=True):
        rows = start[:, 0].tolist()
        while len(rows) < 25:
            lprobs = whole(model, rows)[0][-1]
            rows.append(1 + int(lprobs[1:].argmax()))
        assert best.units[:, 0].tolist() == rows
        lprobs = whole(model, rows)[0]
        expected = lprobs.gather(-1, torch.tensor([*rows, 0]).unsqueeze(-1))
        torch.testing.assert_close(best.positional_scores, expected, atol=1e-4, rtol=1e-4)
        assert best.score == pytest.approx(float(expected.sum()) / 26, abs=1e-4)
        assert best.durations is None and not best.ended


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("options", [{}, {"sampling_topk": 3}, {"sampling_topp": 0.6}, {"stop_at_end": True}])
def test_sampling_is_the_plain_loop(build: Any, options: dict) -> None:
    """Each prompt has its own stream of random numbers; units are drawn by inverting the distribution function."""
    model = build(seed=2)
    prompts, seeds = [prompt(3, seed=1), prompt(7, seed=2), prompt(3, seed=1)], [11, 12, 13]
    core = generator(model, max_len_b=20, sampling=True, temperature=1.3, **options)
    found = core.generate(prompts, [(seed, 0, 0) for seed in seeds])
    ends = 0
    for start, seed, (best,) in zip(prompts, seeds, found, strict=True):
        numbers = np.random.default_rng(np.random.SeedSequence((seed, 0, 0))).random(20, np.float32).tolist()
        rows = start[:, 0].tolist()
        while len(rows) < 20 and (not rows or rows[-1] != 0):
            p = (whole(model, rows)[0][-1].double() / 1.3).exp()
            if "stop_at_end" not in options:
                p[0] = 0
            order = p.argsort(descending=True).tolist()
            if "sampling_topk" in options:
                p[order[3:]] = 0
            if "sampling_topp" in options:
                mass, kept = 0.0, []
                for row in order:
                    if mass < 0.6 * float(p.sum()):
                        kept.append(row)
                    mass += float(p[row])
                p[[row for row in order if row not in kept]] = 0
            target, row = numbers[len(rows)] * float(p.sum()), 0
            while target >= float(p[row]):
                target -= float(p[row])
                row += 1
            rows.append(row)
        if rows[-1] == 0:
            rows.pop()
            ends += 1
            assert best.ended
        assert best.units[:, 0].tolist() == rows
        assert len(best.positional_scores) == len(rows) + 1
    assert not torch.equal(found[0][0].units, found[2][0].units)
    assert ends == 0 or "stop_at_end" in options


@pytest.mark.parametrize("build", BUILDERS)
def test_a_wide_beam_finds_the_most_probable_of_all_sequences(build: Any) -> None:
    limit = 4
    model = build(units=4)
    with torch.no_grad():  # an end that is likely, but not always
        model.decoder.output.weight[0] *= 0.2
    found = generator(model, beam=200, max_len_b=limit, stop_at_end=True).generate([prompt(1, units=4)], [0])[0]
    first = int(prompt(1, units=4))
    everything = []
    for more in range(limit):
        for others in itertools.product(range(1, 5), repeat=more):
            rows = [first, *others]
            lprobs = whole(model, rows)[0]
            score = float(lprobs.gather(-1, torch.tensor([*rows, 0]).unsqueeze(-1)).sum()) / (len(rows) + 1)
            everything.append((score, rows, len(rows) < limit))
    everything.sort(key=lambda entry: -entry[0])
    assert len(found) == len(everything)
    for hypothesis, (score, rows, ended) in zip(found, everything, strict=True):
        assert hypothesis.score == pytest.approx(score, abs=1e-4)
        assert hypothesis.units[:, 0].tolist() == rows and hypothesis.ended == ended
        assert len(hypothesis.positional_scores) == len(rows) + 1
        total = float(hypothesis.positional_scores.sum())
        assert total / (len(rows) + 1) == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("sampling", [True, False])
def test_an_end_symbol_ends_and_is_nowhere_else(build: Any, sampling: bool) -> None:
    model = build()
    with torch.no_grad():
        model.decoder.output.weight[0] = 0.0
        model.decoder.output.weight[1:].clamp_(-0.1, 0.1)
    starts = [prompt(3, seed=s) for s in range(6)]
    seeds = list(range(6))
    free = generator(model, beam=2, sampling=sampling, max_len_b=30).generate(starts, seeds)
    ending = generator(model, beam=2, sampling=sampling, max_len_b=30, stop_at_end=True, min_len=6)
    for hypotheses in [*free, *ending.generate(starts, seeds)]:
        assert all(int(h.units.min()) >= 1 for h in hypotheses)
    assert all(len(h.units) == 30 and not h.ended for hypotheses in free for h in hypotheses)
    lengths = [len(h.units) for hypotheses in ending.generate(starts, seeds) for h in hypotheses]
    assert min(lengths) >= 6 and (not sampling or min(lengths) < 30)


@pytest.mark.parametrize("build", BUILDERS)
def test_sequences_end_when_they_last_long_enough(build: Any) -> None:
    model = build(durations=True)
    with torch.no_grad():
        model.decoder.output_duration.bias.fill_(3.0)
    starts = [prompt(3, seed=1), prompt(5, seed=2)]
    long = generator(model, max_len_b=40, sampling=True).generate(starts, [1, 2])
    short = generator(model, max_len_b=40, sampling=True, max_frames=50).generate(starts, [1, 2])
    for (all_of_it,), (some,) in zip(long, short, strict=True):
        said = whole(model, all_of_it.units[:, 0].tolist())[1][1:].round().long().clamp(min=1).tolist()
        assert all_of_it.durations[:, 0].tolist() == said and sum(said) > 50
        assert int(some.durations.sum()) == 50
        length = len(some.units)
        assert sum(said[: length - 1]) < 50 <= sum(said[:length])
        assert torch.equal(some.units, all_of_it.units[:length])
        assert some.durations[:-1, 0].tolist() == said[: length - 1]
        rows = some.units[:, 0].tolist()
        expected = whole(model, rows)[0].gather(-1, torch.tensor([*rows, 0]).unsqueeze(-1))
        torch.testing.assert_close(some.positional_scores, expected, atol=1e-4, rtol=1e-4)
    faster = generator(model, max_len_b=40, sampling=True, duration_temperature=2.0).generate(starts, [1, 2])
    assert int(faster[0][0].durations.sum()) < int(long[0][0].durations.sum())


def test_a_sample_depends_on_its_prompt_and_seed_alone() -> None:
    for build in BUILDERS:
        core = generator(build(), sampling=True, beam=2, max_len_b=30, stop_at_end=True)
        prompts = [prompt(5, seed=1), prompt(12, seed=2), prompt(12, seed=2)]
        together = core.generate(prompts, [7, 8, 9])
        for i in range(3):
            alone = core.generate([prompts[i]], [7 + i])[0]
            assert torch.equal(together[i][0].units, alone[0].units)
            assert together[i][0].score == pytest.approx(alone[0].score, abs=1e-5)
        assert not torch.equal(together[1][0].units, together[2][0].units)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [4, 8])
@torch.no_grad()
def test_few_and_many_rows_are_computed_alike(dtype: torch.dtype, rows: int) -> None:
    """One row, few and many differ by the order of sums in the products of a bf16 model, not by their precision."""
    model = toy_unit_lm(decoder_embed_dim=64, decoder_ffn_embed_dim=96, decoder_attention_heads=4).eval()
    for parameter in model.parameters():
        parameter.mul_(0.3)
    model.to(dtype)
    tokens = torch.randint(0, 21, (rows, 12, 1))

    def read(tokens: Tensor) -> Tensor:
        cache = model.decoder.make_cache(12)
        steps = [model.decoder(tokens[:, t : t + 1], cache=cache.extend(1))[0][0].units for t in range(12)]
        return torch.cat(steps, 1).float()

    together = read(tokens)
    alone = torch.cat([read(row.unsqueeze(0)) for row in tokens])
    spread = float(together.std())
    assert float((together - alone).abs().max()) < (1e-5 if dtype == torch.float32 else 0.02) * spread


def test_an_ensemble_of_both_kinds_averages_probabilities() -> None:
    models = [toy_unit_lm(), toy_unit_lstm()]
    (best,) = generator(models, max_len_b=12).generate([prompt(4)], [0])[0]
    rows = best.units[:, 0].tolist()
    probabilities = sum(whole(model, rows)[0].exp() for model in models) / 2
    expected = probabilities.gather(-1, torch.tensor([*rows, 0]).unsqueeze(-1)).log()
    torch.testing.assert_close(best.positional_scores, expected, atol=1e-4, rtol=1e-4)


def test_what_cannot_end_is_refused() -> None:
    with pytest.raises(InputError, match="2 channels has no end symbol"):
        from tests.helpers.published import toy_dictionary

        DialogueGenerator([toy_model()], toy_dictionary(), DecodingOptions(stop_at_end=True))
    with pytest.raises(InputError, match="0 frames"):
        DecodingOptions(max_frames=0)
    model: UnitLM = toy_unit_lm()
    with torch.no_grad():
        model.decoder.norm.weight[0] = math.nan
    with pytest.raises(InputError, match="not a number"):
        generator(model).generate([prompt(4)], [0])
