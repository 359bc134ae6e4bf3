"""Decoding against the published beams, against decoding written out plainly, and against the published defects."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.durations import DurationCounter
from speechdlm_ext.generation.filters import filtered
from speechdlm_ext.generation.generator import DialogueGenerator, Hypothesis
from speechdlm_ext.generation.options import DecodingOptions
from speechdlm_ext.generation.search import beam_step, row_seed, sample, uniform_numbers
from speechdlm_ext.models.speech_dlm import SpeechDLM
from tests.helpers.host_syncs import counted_syncs
from tests.helpers.published import CHANNELS, VARIANTS, load, read_json, toy_dictionary, toy_model


def generator(models: SpeechDLM | list[SpeechDLM], channels: int = 2, **options: object) -> DialogueGenerator:
    models = models if isinstance(models, list) else [models]
    return DialogueGenerator(models, toy_dictionary(channels), DecodingOptions(**options))  # type: ignore[arg-type]


def prompt(length: int, channels: int = 2, seed: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(4, 24, (length, channels), generator=random)


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_beam_search_is_the_published_one(reference: Path, variant: str, beam: int) -> None:
    model, task, _ = load(reference, variant)
    published = read_json(reference / variant / "generate.json")
    prompts = [task.dictionary.encode_channels([p[c] for c in CHANNELS]) for p in published["prompts"]]
    core = DialogueGenerator([model], task.dictionary, DecodingOptions(beam=beam, max_len_b=60))
    for ours, theirs in zip(core.generate(prompts, [1, 2, 3]), published[f"beam{beam}"], strict=True):
        assert task.dictionary.channel_strings(ours[0].units) == theirs["out"]
        assert len(ours) == len(theirs["all_hypos"]) == beam
        for hypothesis, other in zip(ours, theirs["all_hypos"], strict=True):
            tokens = [[*hypothesis.units[:, c].tolist(), 2] for c in range(2)]
            assert tokens == [other["tokens"][channel] for channel in CHANNELS]
            assert hypothesis.score == pytest.approx(other["score"], abs=1e-4)
            positions = torch.tensor(other["positional_scores"])
            torch.testing.assert_close(hypothesis.positional_scores, positions, atol=1e-4, rtol=0)


def plain_greedy(model: SpeechDLM, start: Tensor, limit: int, delayed: bool) -> Tensor:
    """Greedy decoding of one prompt: the whole history through the model at each frame, counters in plain Python."""
    history = torch.cat([torch.full((1, start.size(1)), 2), start])
    channels = range(start.size(1))
    left = [1 for _ in channels]
    read = [False for _ in channels]
    for frame in range(limit):
        (head,), _ = model(history[None, : frame + 1])
        for c in channels:
            said = max(1, int(head.durations[0, -1, c].round()))
            repeated = frame > 0 and history[frame, c] == history[frame - 1, c]
            if delayed:
                if frame > 0:
                    left[c] = max(0, left[c] - int(left[c] == 1 or bool(repeated)))
                    said = 1 if repeated else said
                if left[c] == 0:
                    left[c] = said
                copy = left[c] != 1
            else:
                if repeated:
                    left[c] = 1 if read[c] else max(1, left[c] - 1)
                copy = left[c] != 1
                read[c] = not copy
                if read[c]:
                    left[c] = said
            if frame < len(start):
                continue
            logits = head.units[0, -1, c].clone()
            logits[:4] = -torch.inf
            unit = history[frame, c] if copy else logits.argmax()
            if c == 0:
                history = torch.cat([history, torch.zeros(1, len(channels), dtype=torch.long)])
            history[frame + 1, c] = unit
    return history[1:]


@pytest.mark.commands
@pytest.mark.parametrize("delayed", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 3])
@torch.no_grad()
def test_greedy_decoding_is_the_plain_loops(channels: int, delayed: bool) -> None:
    model = toy_model(channels, delayed_duration_target=str(delayed))
    with torch.no_grad():
        model.decoder.output_duration_prediction[0].bias.fill_(3.0)
    core = generator(model, channels, beam=1, max_len_b=40)
    prompts = [prompt(n, channels, seed=n) for n in (6, 11, 1)]
    for start, (best,) in zip(prompts, core.generate(prompts, [0, 0, 0]), strict=True):
        assert torch.equal(best.units, plain_greedy(model, start, 40, delayed))


@torch.no_grad()
def score_of(model: SpeechDLM, units: Tensor) -> Tensor:
    """Log-probability of every unit and of the final ``</s>``: ``(T + 1, C)``."""
    history = torch.cat([torch.full((1, units.size(1)), 2), units])
    lprobs = model(history[None])[0][0].units[0].log_softmax(-1)
    following = torch.cat([units, torch.full((1, units.size(1)), 2)])
    return lprobs.gather(-1, following.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("sampling", [True, False])
def test_scores_are_the_models_log_probabilities(sampling: bool) -> None:
    model = toy_model()
    for hypotheses in generator(model, sampling=sampling, beam=3, max_len_b=25).generate(
        [prompt(4), prompt(9)], [5, 6]
    ):
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for h in hypotheses:
            torch.testing.assert_close(h.positional_scores, score_of(model, h.units), atol=1e-4, rtol=1e-4)
            assert h.score == pytest.approx(float(h.positional_scores.sum()) / 26, abs=1e-4)


@pytest.mark.commands
def test_a_model_without_durations_generates_and_its_beam_is_exhaustive_search() -> None:
    model = toy_model(1, duration_prediction="False")
    start = prompt(3, 1)
    found = generator(model, channels=1, beam=20, max_len_b=5).generate([start], [0])[0]
    scored = []
    for first in range(4, 24):
        for second in range(4, 24):
            units = torch.cat([start, torch.tensor([[first], [second]])])
            scored.append((float(score_of(model, units).sum()) / 6, [first, second]))
    scored.sort(reverse=True)
    assert found[0].units[3:, 0].tolist() == scored[0][1]
    assert found[0].score == pytest.approx(scored[0][0], abs=1e-4)


def test_a_sample_depends_on_its_prompt_and_seed_alone() -> None:
    core = generator(toy_model(), sampling=True, beam=2, max_len_b=30)
    prompts = [prompt(5, seed=1), prompt(12, seed=2), prompt(12, seed=2)]
    together = core.generate(prompts, [7, 8, 9])
    for i in range(3):
        alone = core.generate([prompts[i]], [7 + i])[0]
        assert torch.equal(together[i][0].units, alone[0].units)
        assert torch.equal(together[i][0].units[: len(prompts[i])], prompts[i])
    assert not torch.equal(together[1][0].units, together[2][0].units)


def test_lengths_follow_each_prompt() -> None:
    core = generator(toy_model(), max_len_a=2.0, max_len_b=3)
    found = core.generate([prompt(4), prompt(9)], [0, 0])
    assert [len(h[0].units) for h in found] == [2 * 5 + 3, 2 * 10 + 3]
    assert torch.equal(found[0][0].units, core.generate([prompt(4)], [0])[0][0].units)


@pytest.mark.parametrize("sampling", [True, False])
def test_special_symbols_are_never_emitted(sampling: bool) -> None:
    model = toy_model(duration_prediction="False")
    with torch.no_grad():
        model.decoder.embed_tokens.weight[:4] *= 0
        model.decoder.output_projection[0].weight[:4] = 50 * model.decoder.layer_norm.bias.sign()
        model.decoder.layer_norm.bias.mul_(20)
    for hypotheses in generator(model, sampling=sampling, beam=4, max_len_b=40).generate([prompt(3)] * 3, [1, 2, 3]):
        assert all(int(h.units.min()) >= 4 for h in hypotheses)


def test_free_frames_are_filled_in_and_the_rest_is_kept() -> None:
    model = toy_model()
    start = prompt(20)
    start[:, 1] = 1  # <pad>: all of channel B is the model's
    start[5:9, 0] = 3  # <unk>: four frames of channel A as well
    (best,) = generator(model, sampling=True, max_len_b=20).generate([start], [4])[0]
    kept = torch.cat([start[:5, 0], start[9:, 0]])
    assert torch.equal(torch.cat([best.units[:5, 0], best.units[9:, 0]]), kept)
    assert int(best.units.min()) >= 4
    torch.testing.assert_close(best.positional_scores, score_of(model, best.units), atol=1e-4, rtol=1e-4)


def test_an_ensemble_averages_probabilities() -> None:
    models = [toy_model(seed=1), toy_model(seed=2)]
    (best,) = generator(models, beam=2, max_len_b=12).generate([prompt(4)], [0])[0][:1]
    history = torch.cat([torch.full((1, 2), 2), best.units])
    with torch.no_grad():
        probabilities = sum(m(history[None])[0][0].units[0].softmax(-1) for m in models) / 2
    expected = probabilities[:-1].gather(-1, best.units.unsqueeze(-1)).squeeze(-1).log()
    torch.testing.assert_close(best.positional_scores[:-1], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.commands
@pytest.mark.parametrize(("positions", "window"), [(16, None), (16, 500), (64, 16)])
def test_beyond_the_window_each_frame_sees_half_a_window_or_more(positions: int, window: int | None) -> None:
    model = toy_model(tokens_per_sample=positions)
    (best,) = generator(model, max_len_b=100, sampling=True, window=window).generate([prompt(5)], [1])[0]
    assert len(best.units) == 100
    history = torch.cat([torch.full((1, 2), 2), best.units])
    begin, checked = 0, 0
    for frame in range(100):
        if frame - begin >= 16:  # the window is full: it begins anew with its last 8 frames
            begin = frame - 8
        with torch.no_grad():
            lprobs = model(history[None, begin : frame + 1])[0][0].units[0, -1].log_softmax(-1)
        expected = lprobs.gather(-1, best.units[frame].unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(best.positional_scores[frame], expected, atol=1e-4, rtol=1e-4)
        checked += 1
    assert checked == 100
    with pytest.raises(InputError, match="101 frames are asked for, the model's window has 16"):
        generator(model, max_len_b=100, slide=False, window=window).generate([prompt(5)], [1])


def test_a_prompt_longer_than_the_window_is_read_whole() -> None:
    model = toy_model(tokens_per_sample=16)
    core = generator(model, max_len_b=60)
    (once,) = core.generate([prompt(50)], [0])[0]
    assert torch.equal(once.units[:50], prompt(50))
    (again,) = core.generate([once.units[:55]], [0])[0]
    assert torch.equal(again.units, once.units)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "--temperature 0.0"),
        ({"temperature": math.nan}, "--temperature nan"),
        ({"duration_temperature": -1.0}, "--duration-temperature"),
        ({"sampling": True, "sampling_topp": 1.5}, "--sampling-topp 1.5"),
        ({"sampling": True, "sampling_topp": 0.0}, "--sampling-topp 0.0"),
        ({"sampling_topk": 5}, "needs --sampling"),
        ({"beam": 0}, "--beam 0"),
        ({"max_len_b": 3}, "the prompt has 4 frames"),
        ({"max_len_b": 20, "min_len": 30}, "30 is the least"),
        ({"temperature": [1.0, 1.0, 1.0]}, "3 numbers for 2 channels"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        generator(toy_model(), **options).generate([prompt(4)], [0])


def test_broken_weights_stop_with_a_message() -> None:
    model = toy_model()
    with torch.no_grad():
        model.decoder.layers[1].fc1.weight[0, 0] = math.nan
    with pytest.raises(InputError, match="not a number"):
        generator(model).generate([prompt(4)], [0])


def test_a_very_low_temperature_draws_the_most_probable_unit() -> None:
    model = toy_model(duration_prediction="False")
    (cold,) = generator(model, sampling=True, temperature=1e-4, max_len_b=30).generate([prompt(4)], [0])[0]
    (greedy,) = generator(model, max_len_b=30).generate([prompt(4)], [0])[0]
    assert torch.equal(cold.units, greedy.units)


def test_draws_follow_the_probabilities() -> None:
    lprobs = torch.tensor([0.5, 0.0, 0.3, 0.2]).log()
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    counts = sample(lprobs.expand(10_000, 4), uniform).bincount(minlength=4)
    assert counts.tolist() == [5000, 0, 3000, 2000]
    assert int(sample(torch.tensor([0.0, -torch.inf, -torch.inf]), torch.tensor(1.0 - 2**-24))) == 0
    assert int(sample(torch.tensor([-torch.inf, 0.0]), torch.tensor(0.0))) == 1


def test_the_most_probable_are_kept() -> None:
    lprobs = torch.tensor([0.4, 0.1, 0.3, 0.2]).log()

    def kept(**options: float) -> list[float]:
        return filtered(lprobs, DecodingOptions(sampling=True, **options)).exp().tolist()  # type: ignore[arg-type]

    assert kept(sampling_topk=2) == pytest.approx([0.4, 0, 0.3, 0])
    assert kept(sampling_topk=9) == kept(sampling_topp=1.0) == kept() == pytest.approx([0.4, 0.1, 0.3, 0.2])
    assert kept(sampling_topp=0.65) == pytest.approx([0.4, 0, 0.3, 0])
    assert kept(sampling_topp=0.75) == kept(sampling_topp=0.75, sampling_topk=1) == pytest.approx([0.4, 0, 0.3, 0.2])


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_best_continuations_are_those_of_all_combinations(channels: int) -> None:
    torch.manual_seed(channels)
    lprobs, totals = torch.randn(2, 3, channels, 6), torch.randn(2, 3, channels)
    parents, units, values = beam_step(lprobs, totals, 4)
    grids = torch.cartesian_prod(*[torch.arange(6)] * channels).view(-1, channels)
    for b in range(2):
        everything = []
        for k in range(3):
            for combination in grids:
                parts = [float(lprobs[b, k, c, combination[c]] + totals[b, k, c]) for c in range(channels)]
                everything.append((sum(parts), k, combination.tolist(), parts))
        everything.sort(key=lambda entry: -entry[0])
        for i, (_, parent, combination, parts) in enumerate(everything[:4]):
            assert int(parents[b, i]) == parent and units[b, i].tolist() == combination
            assert values[b, i].tolist() == pytest.approx(parts, abs=1e-5)


def test_counters_repeat_a_unit_for_as_long_as_was_said() -> None:
    counter = DurationCounter(1, 1, delayed=True, temperature=2.0, device=torch.device("cpu"))
    said = [9.0, 8.0, 1.0, 1.0, 1.0]  # an edge at frame 0; its duration, 8 / 2 = 4, is read at frame 1
    repeats = [True, False, True, True, True]
    copied = []
    for duration, repeated in zip(said, repeats, strict=True):
        copied.append(bool(counter.advance(torch.tensor([[duration]]), torch.tensor([[repeated]]))))
    assert copied == [False, True, True, True, False]


def test_dead_hypotheses_are_not_returned() -> None:
    start = prompt(10)
    (only,) = generator(toy_model(), beam=4, max_len_b=10).generate([start], [0])
    assert len(only) == 1 and isinstance(only[0], Hypothesis) and torch.equal(only[0].units, start)


def test_broken_duration_weights_stop_with_a_message() -> None:
    model = toy_model()
    with torch.no_grad():
        model.decoder.output_duration_prediction[0].weight[0, 0] = math.nan
    with pytest.raises(InputError, match="not a number"):
        generator(model).generate([prompt(4)], [0])


def replayed(model: SpeechDLM, units: Tensor, known: int, delayed: bool) -> list[tuple[int, int]]:
    """Frames and channels after the first ``known`` frames at which a hypothesis had to repeat its unit, and did not.

    The counters run in plain Python over this hypothesis alone, whatever beams it has come through.
    """
    history = torch.cat([torch.full((1, units.size(1)), 2), units])
    with torch.no_grad():
        durations = model(history[None])[0][0].durations[0]
    broken = []
    for c in range(units.size(1)):
        left, read = 1, False
        for frame in range(len(units)):
            said = max(1, int(durations[frame, c].round()))
            repeated = frame > 0 and bool(history[frame, c] == history[frame - 1, c])
            if delayed:
                if frame > 0:
                    left = max(0, left - int(left == 1 or repeated))
                    said = 1 if repeated else said
                left = said if left == 0 else left
                copy = left != 1
            else:
                if repeated:
                    left = 1 if read else max(1, left - 1)
                copy = left != 1
                read = not copy
                left = said if read else left
            if copy and frame >= max(known, 1) and history[frame + 1, c] != history[frame, c]:
                broken.append((frame, c))
    return broken


@pytest.mark.parametrize("delayed", [True, False])
def test_duration_counters_follow_their_hypotheses_through_the_beam(
    delayed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy_model(delayed_duration_target=str(delayed))
    with torch.no_grad():  # runs of some frames, and of different lengths
        model.decoder.output_duration_prediction[0].bias.fill_(3.0)
        model.decoder.output_duration_prediction[0].weight.mul_(3.0)
    moved = []
    select = DurationCounter.select

    def watched(self: DurationCounter, rows: Tensor) -> None:
        moved.append(len(rows) == len(self.left) and not torch.equal(self.left[rows], self.left))
        select(self, rows)

    monkeypatch.setattr(DurationCounter, "select", watched)
    starts = [prompt(4, seed=seed) for seed in range(6)]
    for start, hypotheses in zip(starts, generator(model, beam=5, max_len_b=40).generate(starts, [0] * 6), strict=True):
        for hypothesis in hypotheses:
            assert replayed(model, hypothesis.units, len(start), delayed) == []
    assert any(moved)  # hypotheses with different counters did change places


@pytest.mark.parametrize("delayed", [True, False])
@pytest.mark.parametrize("length", [1, 2, 7, 60])
def test_counters_read_a_prompt_at_once_as_frame_by_frame(delayed: bool, length: int) -> None:
    random = torch.Generator().manual_seed(length)
    predicted = 6 * torch.rand(200, length, 2, generator=random)
    repeated = torch.rand(200, length, 2, generator=random) < 0.7
    repeated[:, 0] = True
    plain, whole = (DurationCounter(200, 2, delayed, 1.3, torch.device("cpu")) for _ in range(2))
    for frame in range(length):
        repeat = plain.advance(predicted[:, frame], repeated[:, frame])
    assert torch.equal(whole.read_prompt(predicted, repeated), repeat)
    assert length < 3 or 0 < int(repeat.sum()) < 400
    for _ in range(5):  # and they go on alike
        predicted, again = 6 * torch.rand(200, 2, generator=random), torch.rand(200, 2, generator=random) < 0.7
        assert torch.equal(whole.advance(predicted, again), plain.advance(predicted, again))
        assert torch.equal(whole.left, plain.left)


def test_random_numbers_are_each_rows_own() -> None:
    seeds = [row_seed(seed, row, k) for seed in (1, 2) for row in range(3) for k in range(2)]
    starts = [prompt(4)] * len(seeds)
    core = generator(toy_model(), sampling=True, max_len_b=20)
    found = [tuple(h[0].units[4:].flatten().tolist()) for h in core.generate(starts, seeds)]
    assert len(set(found)) == len(seeds)
    numbers = np.random.default_rng(np.random.SeedSequence((2, 1, 0))).random((1, 20, 2), np.float32)
    np.testing.assert_array_equal(uniform_numbers([(2, 1, 0)], 1, 20, 2)[0].numpy(), numbers)
    for wrong in (-1, 2**64):
        with pytest.raises(InputError, match="from 0 to"):
            row_seed(wrong)


@pytest.mark.commands
@pytest.mark.parametrize("options", [{}, {"sampling_topp": 0.9}, {"sampling_topk": 5}])
def test_a_decoding_step_waits_for_the_device_only_to_see_whether_to_stop(options: dict) -> None:
    core = generator(toy_model(), sampling=True, max_len_b=40, **options)
    counts = []
    for limit in (24, 40):
        core.options = DecodingOptions(sampling=True, max_len_b=limit, **options)
        with counted_syncs() as found:
            core.generate([prompt(4), prompt(8)], [1, 2])
        counts.append(found)
    assert counts[1] - counts[0] == {"tolist": 2}  # 16 more frames, one look every 8


def test_a_step_of_beam_search_asks_whether_hypotheses_changed_places_on_a_cpu_alone() -> None:
    counts = []
    for limit in (12, 20):
        with counted_syncs() as found:
            generator(toy_model(), beam=3, max_len_b=limit).generate([prompt(4)], [1])
        counts.append(found)
    assert counts[1] - counts[0] == {"equal": 8, "tolist": 1}


@pytest.mark.commands
def test_a_step_is_compiled_once_for_all_calls() -> None:
    core = generator(toy_model(decoder_layers=1, decoder_cross_layers=1), compile=True, max_len_b=20, sampling=True)
    # Of models loaded from checkpoints, args is such a dictionary.
    core.models[0].decoder.args = OmegaConf.create({"no_token_positional_embeddings": False})
    graphs = []
    for _ in range(2):
        with torch._inductor.config.patch(force_disable_caches=True):
            core.generate([prompt(4)], [1])
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] > 0
    torch.nn.init.zeros_(core.models[0].decoder.output_projection[0].weight)
    compiled = core.generate([prompt(4)], [1])
    core.options = DecodingOptions(sampling=True, max_len_b=20)
    eager = core.generate([prompt(4)], [1])
    assert torch.equal(compiled[0][0].units, eager[0][0].units)  # compiled steps see the new weights


@pytest.mark.commands
def test_compiled_steps_of_beam_search_give_the_same() -> None:
    prompts = [prompt(4), prompt(9)]
    plain, compiled = (
        generator(toy_model(decoder_layers=1, decoder_cross_layers=1), compile=compile, max_len_b=30, beam=3).generate(
            prompts, [1, 2]
        )
        for compile in (False, True)
    )
    for ours, theirs in zip(plain, compiled, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.units, other.units)
            torch.testing.assert_close(one.positional_scores, other.positional_scores, atol=1e-4, rtol=1e-4)
