"""A page of recordings beside their resynthesis, in one file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.metrics.agreement import speech_agreement
from speechdlm_ext.report.page import Section, render_page
from speechdlm_ext.report.player import Player
from speechdlm_ext.vad.energy import Energy

_SECONDS = 20.0  # of each recording: the audio is in the page itself
_COMPARABLE = 0.5  # seconds by which a synthesis with the recording's durations may be longer or shorter


def write_listening_page(
    path: str | os.PathLike[str],
    title: str,
    lead: str,
    pairs: Sequence[tuple[str, Sequence[str], str | os.PathLike[str]]],
    sample_rate: int,
) -> None:
    """Write a page with two players for each pair, source and resynthesis, on the same time axis if both are as long.

    Args:
        path: HTML file to write.
        title: plain text.
        lead: plain text under it.
        pairs: name, audio files of the source (one with all channels, or one for each, or none), audio file of the
            synthesis.
        sample_rate: of the audio in the page, in Hz.

    Raises:
        InputError: a recording cannot be read.
    """
    sections = [_section(number, *pair, sample_rate) for number, pair in enumerate(pairs, 1)]
    with atomic_write(path) as file:
        file.write(render_page(title, lead, sections))


def _section(
    number: int,
    name: str,
    sources: Sequence[str],
    synthesis: str | os.PathLike[str],
    sample_rate: int,
) -> Section:
    waves = [torch.cat([read_audio(source, sample_rate, stop=_SECONDS)[0] for source in sources])] if sources else []
    waves.append(read_audio(synthesis, sample_rate, stop=_SECONDS)[0])
    labels = ("Recording", "Resynthesis") if sources else ("Synthesis",)
    shortest = min(wave.shape[1] for wave in waves)
    comparable = sources and max(wave.shape[1] for wave in waves) < shortest + _COMPARABLE * sample_rate
    players, speech = [], []
    for label, wave, file in zip(labels, waves, (*sources[:1], synthesis), strict=True):
        samples = wave[:, : shortest if comparable else None].numpy()
        speech.append(Energy().detect(samples, sample_rate))
        players.append(Player.of_wave(label, samples, sample_rate, speech[-1], note=Path(file).name).render())
    lead = ""
    if comparable:
        shares = [speech_agreement(one, other, shortest / sample_rate) for one, other in zip(*speech, strict=True)]
        agreement = ", ".join(f"{100 * share:.1f} %" for share in shares)
        lead = f"Speech activity agrees in {agreement} of frames" + (" of the channels." if len(shares) > 1 else ".")
    return Section(f"item-{number}", name, f'<div class="samples">{"".join(players)}</div>', lead)
