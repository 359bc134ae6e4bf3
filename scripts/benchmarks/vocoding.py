"""Units to sound by a unit HiFi-GAN beside fairseq's generator, and codec tokens to sound beside transformers."""

from __future__ import annotations

from benchmarks.comparison import Comparison, in_turns, seconds
from benchmarks.sides import Settings

# Options of the published generators (Polyak et al. 2021).
CONFIG = {
    "resblock": "1",
    "upsample_rates": [5, 4, 4, 2, 2],
    "upsample_kernel_sizes": [11, 8, 8, 4, 4],
    "upsample_initial_channel": 512,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "num_embeddings": 500,
    "embedding_dim": 128,
    "model_in_dim": 128,
    "sampling_rate": 16000,
}
SECONDS = 10


def measure(settings: Settings) -> list[Comparison]:
    """Dialogues of 10 s by a HiFi-GAN of the published size: all together, and fairseq's own one channel at a time."""
    import torch

    from speechdlm_ext.modules.unit_generator import UnitGenerator
    from speechdlm_ext.vocoders.hifigan import HiFiGANVocoder

    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(1)
    generator = UnitGenerator(CONFIG).eval().to(settings.device)
    generator.fold_weight_norm()
    vocoder = HiFiGANVocoder(generator, CONFIG)
    dialogues = 16 if settings.device == "cuda" else 2
    units = torch.randint(500, (dialogues, round(SECONDS * vocoder.frame_rate), 2))

    @torch.no_grad()
    def one_by_one() -> None:
        for channel in units.transpose(1, 2).flatten(0, 1):
            generator(code=channel[None].to(settings.device)).cpu()

    sound = 2 * dialogues * SECONDS
    rates = in_turns(
        lambda: sound / seconds(one_by_one),
        lambda: sound / seconds(lambda: vocoder.decode(units)),
        settings.rounds or 3,
    )
    return [Comparison("vocode", *rates, "× real time", more_is_better=True)]


def codec(settings: Settings) -> list[Comparison]:
    """10 s of codec tokens by a WavTokenizer of the published shape (40 Hz, random weights), beside transformers'."""
    import torch
    import transformers

    from speechdlm_ext.modules.wavtokenizer import WavTokenizerConfig, WavTokenizerModel

    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(1)
    config = WavTokenizerConfig()
    ours = WavTokenizerModel(config).eval().to(settings.device)
    same = transformers.WavTokenizerConfig(
        codebook_dim=config.code_dim,
        codebook_size=config.codes,
        hidden_size=config.code_dim,
        num_filters=config.filters,
        upsampling_ratios=list(config.ratios),
        decoder_hidden_size=config.dim,
        decoder_intermediate_size=config.inner_dim,
        decoder_num_layers=config.layers,
        adanorm_num_embeddings=config.bandwidths,
    )
    other = transformers.WavTokenizerModel(same).eval().to(settings.device)
    codes = torch.randint(config.codes, (1, round(SECONDS * ours.frame_rate)), device=settings.device)

    @torch.no_grad()
    def theirs() -> None:
        other.decode(codes.unsqueeze(1)).audio_values.cpu()

    @torch.no_grad()
    def own() -> None:
        ours.decode(codes).cpu()

    rates = in_turns(lambda: SECONDS / seconds(theirs), lambda: SECONDS / seconds(own), settings.rounds or 5)
    return [Comparison("codec", *rates, "× real time", more_is_better=True)]
