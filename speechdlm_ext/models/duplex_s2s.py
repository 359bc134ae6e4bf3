"""Duplex speech-to-speech models: a language model that takes in sound and answers, frame by frame (NeMo speechlm2)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from speechdlm_ext.codecs import CODECS, build_codec
from speechdlm_ext.codecs.base import Codec
from speechdlm_ext.data.llm_tokenizer import LLMTokenizer, load_tokenizer
from speechdlm_ext.errors import InputError
from speechdlm_ext.models.trained_weights import TRAINED_ONLY, TrainedWeights
from speechdlm_ext.modules.backbone import (
    OWN_LLM,
    add_lora,
    check_length,
    config_of,
    decoder_of,
    find_folder,
    freeze_parameters,
    load_backbone,
    make_cache,
    run_backbone,
    take_embeddings,
)
from speechdlm_ext.modules.duplex_frames import ChannelIds, DuplexFrames, align_channels, stack_codes
from speechdlm_ext.modules.linear import Linear
from speechdlm_ext.modules.perception import Perception, find_encoder, load_encoder
from speechdlm_ext.modules.speech_decoder import SpeechDecoder, SpeechDecoderOptions, SpeechDecoderState

TASK_STATE = "duplex_config"  # where the task's part of a fairseq checkpoint has the configuration


@dataclass
class DuplexState:
    """What a duplex model remembers of the frames that it has read.

    Attributes:
        cache: of the language model.
        text: the next frame's token ``(B,)``.
        codes: of the frame before ``(B, K)``.
        decoder: of the speech decoder, where there is one.
    """

    cache: Any
    text: Tensor
    codes: Tensor
    decoder: SpeechDecoderState | None = None


@dataclass
class DuplexConfig(FairseqDataclass):
    """Options of the model; its shape is the task's ``--model-config``."""

    save_trained_only: bool = field(default=False, metadata={"help": TRAINED_ONLY})


@register_model("duplex_s2s", dataclass=DuplexConfig)
class DuplexS2S(TrainedWeights, BaseFairseqModel):
    """At frame t the model has read text t, the user's frame t and codes t - 1; it predicts text t + 1 and codes t.

    Parameters are named as in the published weights.

    Args:
        llm: language model without embeddings and head, see :mod:`.backbone`.
        embed_tokens: its token embeddings.
        lm_head: its head.
        perception: from the user's sound to embeddings of the language model's width, one each frame.
        ids: of control.
        codebooks: K, codes of a frame.
        user_weight: factor of the user's embeddings.
    """

    _control_codes: Tensor
    perception: Any
    llm: nn.Module

    def __init__(
        self,
        llm: nn.Module,
        embed_tokens: nn.Module,
        lm_head: nn.Module,
        perception: nn.Module,
        ids: ChannelIds,
        codebooks: int,
        user_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.ids, self.codebooks, self.user_weight = ids, codebooks, user_weight
        self.llm, self.embed_tokens, self.lm_head, self.perception = llm, embed_tokens, lm_head, perception
        dim = config_of(llm).hidden_size
        self.embed_audio_tokens = nn.ModuleList(nn.Embedding(ids.all_codes, dim) for _ in range(codebooks))
        self.audio_head = Linear(dim, codebooks * ids.all_codes)
        self.register_buffer("_control_codes", torch.tensor([ids.speech_bos, ids.speech_eos, ids.speech_delay]))

    @classmethod
    def build_model(cls, cfg: DuplexConfig, task: Any) -> "DuplexS2S":
        """Build the model of a task's configuration (fairseq's entry).

        Raises:
            InputError: as :func:`build_duplex` and :meth:`.leave_out_frozen`, or it is the configuration of the other
                model.
        """
        model = build_duplex(task.parts)
        model.check_trained()
        if cfg.save_trained_only:
            model.leave_out_frozen(task.parts.config)
        if type(model) is not cls:
            raise InputError(
                "--arch duplex_s2s_speech_decoder is for configurations with speech_decoder, and only those"
            )
        return model

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._control_codes.device

    def prepare(self, batch: Mapping[str, Tensor]) -> DuplexFrames:
        """The channels of a batch of :class:`.DuplexS2SDataset` with codes, in step."""
        user, user_lens = self.perception(batch["source_audio"], batch["source_audio_lens"])
        per_frame = self.codebooks // batch["target_codes"].size(2)
        codes, code_lens = stack_codes(batch["target_codes"], per_frame), batch["target_codes_lens"] // per_frame
        return align_channels(user, user_lens, batch["target_tokens"], codes, code_lens, self.ids)

    def embed(self, user: Tensor, text: Tensor, codes: Tensor) -> Tensor:
        """What the language model reads, of user ``(B, T, H)``, text ``(B, T)`` and the last codes ``(B, T, K)``."""
        x = self.embed_tokens(text) + self.user_weight * user
        for book, embed in enumerate(self.embed_audio_tokens):
            x = x + embed(codes[..., book])
        return x

    def heads(
        self, user: Tensor, text: Tensor, codes: Tensor, state: DuplexState | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits of text ``(B, T, V)`` and codes ``(B, T, K, C + 3)``; arguments as :meth:`embed`."""
        hidden = run_backbone(self.llm, self.embed(user, text, codes), cache=None if state is None else state.cache)
        return self.lm_head(hidden), self.code_logits(hidden, codes, state)

    def code_logits(self, hidden: Tensor, codes: Tensor, state: DuplexState | None) -> Tensor:
        """Logits of codes from the language model's states."""
        made: Tensor = self.audio_head(hidden).unflatten(-1, (self.codebooks, -1))
        return made

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, DuplexFrames]:
        """Logits of text and codes, as :meth:`heads`, and the frames with their labels."""
        frames = self.prepare(batch)
        check_length(self.llm, frames.user.size(1))
        return *self.heads(frames.user, frames.text, frames.codes), frames

    def make_state(self, rows: int, capacity: int, rolling: bool = False) -> DuplexState:
        """The state before the first frame.

        Args:
            rows: B.
            capacity: frames that are remembered.
            rolling: the oldest frames are forgotten where there are more.

        Raises:
            InputError: the language model has fewer positions.
        """
        check_length(self.llm, capacity)
        device = self.device
        text = torch.full((rows,), self.ids.text_pad, device=device)
        codes = torch.full((rows, self.codebooks), self.ids.speech_delay, device=device)
        return DuplexState(make_cache(self.llm, capacity, rolling), text, codes)

    def step(self, user: Tensor, state: DuplexState) -> tuple[Tensor, Tensor]:
        """Read the user's next frame ``(B, H)``: logits of text ``(B, V)`` and codes ``(B, K, C + 3)``.

        What is chosen of them has to be written into the state.
        """
        text, codes = self.heads(user.unsqueeze(1), state.text.unsqueeze(1), state.codes.unsqueeze(1), state)
        return text[:, 0], codes[:, 0]


@register_model("duplex_s2s_speech_decoder", dataclass=DuplexConfig)
class DuplexS2SSpeechDecoder(DuplexS2S):
    """The same with a speech decoder of its own: the language model reads text and user, the decoder the codes."""

    def __init__(self, *args: Any, speech_decoder: SpeechDecoderOptions, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        dim = config_of(self.llm).hidden_size
        self.speech_generation = SpeechDecoder(speech_decoder, dim, self.codebooks, self.ids.all_codes)

    def embed(self, user: Tensor, text: Tensor, codes: Tensor) -> Tensor:
        """What the language model reads: no codes."""
        made: Tensor = self.embed_tokens(text) + self.user_weight * user
        return made

    def code_logits(self, hidden: Tensor, codes: Tensor, state: DuplexState | None) -> Tensor:
        """Logits of codes from the speech decoder."""
        made: Tensor = self.speech_generation(hidden, codes, None if state is None else state.decoder)
        return made

    def make_state(self, rows: int, capacity: int, rolling: bool = False) -> DuplexState:
        """See :meth:`DuplexS2S.make_state`."""
        state = super().make_state(rows, capacity, rolling)
        state.decoder = self.speech_generation.make_state(capacity, self.device, rolling)
        return state


@dataclass(frozen=True)
class DuplexParts:
    """What a duplex model is built of and used with.

    Attributes:
        config: the section ``model`` of a published configuration.
        llm: the language model, as :func:`.load_backbone` takes it.
        tokenizer: of the language model.
        codec: of the agent's sound.
        perception: of the user's sound.
        beside: folder from which relative paths in ``config`` are looked for, after the working directory.
    """

    config: Mapping[str, Any]
    llm: Any
    tokenizer: LLMTokenizer
    codec: Codec
    perception: Perception
    beside: Path | None

    @classmethod
    def of(cls, config: Mapping[str, Any], beside: Path | None = None) -> "DuplexParts":
        """Load what a configuration names.

        Args:
            config: ``pretrained_llm`` (of which the tokenizer is taken, too, unless there is ``tokenizer``),
                ``pretrained_audio_codec`` (a ``.nemo`` file, or ``KIND:MODEL`` of :func:`.build_codec`),
                ``perception``, and ``pretrained_asr`` (see :func:`.find_encoder`).

        Raises:
            InputError: a part is missing or cannot be loaded, or frame rates do not fit.
        """
        for name in ("pretrained_llm", "pretrained_audio_codec", "perception"):
            if not config.get(name):
                raise InputError(f"the configuration of the model has no {name}")
        llm, source = config["pretrained_llm"], config.get("tokenizer") or config["pretrained_llm"]
        if beside is not None and (beside / OWN_LLM).is_dir():
            llm, source = beside / OWN_LLM, beside
        if isinstance(source, Mapping):
            raise InputError("pretrained_llm is a configuration: name a tokenizer beside it (tokenizer: FOLDER)")
        tokenizer = load_tokenizer(find_folder(source, beside) or source)
        if tokenizer.bos_id is None or tokenizer.eos_id is None:
            raise InputError(f"{source}: the tokenizer has no BOS or no EOS, which mark the agent's turns")
        codec = _codec(str(config["pretrained_audio_codec"]), beside)
        sections, weights = find_encoder(config, beside)
        section = {**config["perception"], **sections}
        perception = Perception(section)
        load_encoder(perception, weights, str(config.get("pretrained_asr")))
        ratio = codec.frame_rate / perception.frame_rate
        if abs(ratio - round(ratio)) > 1e-6 or ratio < 0.5:
            raise InputError(
                f"the codec has {codec.frame_rate:g} frames per second, the perception {perception.frame_rate:g}: the "
                "former has to be a multiple of the latter"
            )
        return cls({**config, "perception": section}, llm, tokenizer, codec, perception, beside)

    def located(self) -> dict[str, Any]:
        """The configuration with absolute paths of the files and folders that it names: it can be read anywhere."""
        config = dict(self.config)
        for name in ("pretrained_llm", "tokenizer", "pretrained_audio_codec", "pretrained_asr"):
            if isinstance(config.get(name), str):
                kind, colon, model = config[name].rpartition(":")
                found = [(find_folder(one, self.beside), one) for one in model.split(",")]
                config[name] = kind + colon + ",".join(str(path.absolute()) if path else one for path, one in found)
        return config

    @property
    def ids(self) -> ChannelIds:
        """Ids of control."""
        bos, eos = self.tokenizer.bos_id, self.tokenizer.eos_id
        assert bos is not None and eos is not None
        return ChannelIds(bos, eos, self.tokenizer.pad_id, self.codec.codebook_size)

    @property
    def per_frame(self) -> int:
        """Frames of the codec in one of the model."""
        return round(self.codec.frame_rate / self.perception.frame_rate)

    def words(self, tokens: Iterable[int]) -> list[int]:
        """The ids of a text channel that are text: no padding, BOS or EOS, nor what the tokenizer does not know."""
        ids, size = self.ids, len(self.tokenizer)
        return [one for one in tokens if one < size and one not in (ids.text_pad, ids.text_bos, ids.text_eos)]


def _codec(spec: str, beside: Path | None) -> Codec:
    kind, _, model = spec.partition(":")
    if kind not in CODECS:
        kind, model = "nemo", spec
    path = find_folder(model, beside)
    return build_codec(f"{kind}:{path or model}")


def build_duplex(parts: DuplexParts) -> DuplexS2S:
    """Make a model.

    Of its configuration are read: ``pretrained_llm`` (see :func:`.load_backbone`), ``pretrained_weights``, ``lora``,
    ``duplex_user_channel_weight``, ``freeze_params``, ``prevent_freeze_params``, and ``speech_decoder``, which makes
    it a :class:`DuplexS2SSpeechDecoder`.

    Raises:
        InputError: parts do not fit.
    """
    config, ids = parts.config, parts.ids
    llm = load_backbone(parts.llm, bool(config.get("pretrained_weights", True)), parts.beside)
    embeddings: Any = take_embeddings(llm)
    head: Any = llm.lm_head
    if embeddings.num_embeddings <= max(ids.text_bos, ids.text_eos, ids.text_pad):
        raise InputError(
            f"the tokenizer has ids up to {max(ids.text_bos, ids.text_eos, ids.text_pad)}, the language model "
            f"{embeddings.num_embeddings} embeddings: they do not belong together"
        )
    decoder: nn.Module = decoder_of(llm)
    if config.get("lora"):
        decoder = add_lora(decoder, config["lora"])
    width = config_of(decoder).hidden_size
    if parts.perception.output_dim != width:
        raise InputError(f"perception: output_dim {parts.perception.output_dim}, the language model's width is {width}")
    codebooks, weight = parts.codec.num_codebooks * parts.per_frame, float(config.get("duplex_user_channel_weight", 1))
    modules = (decoder, embeddings, head, parts.perception, ids, codebooks, weight)
    model: DuplexS2S
    if config.get("speech_decoder"):
        options = SpeechDecoderOptions.of(config["speech_decoder"])
        model = DuplexS2SSpeechDecoder(*modules, speech_decoder=options)
    else:
        model = DuplexS2S(*modules)
    # The codec is not among the parameters; what a speech decoder replaces is in published weights and never read.
    freeze = [pattern for pattern in config.get("freeze_params") or () if not pattern.startswith("^audio_codec")]
    freeze += ["^embed_audio_tokens", "^audio_head"] if config.get("speech_decoder") else []
    freeze_parameters(model, freeze, config.get("prevent_freeze_params") or ())
    return model
