"""SALM: a text language model with audio; embeddings stand where a prompt has placeholders (NeMo speechlm2)."""

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from speechdlm_ext.data.llm_tokenizer import SENTENCEPIECE, load_tokenizer
from speechdlm_ext.data.prompts import encode_dialog, name_placeholders, read_prompt
from speechdlm_ext.data.salm_dataset import pad_left
from speechdlm_ext.data.splicing import splice
from speechdlm_ext.encoders.base import ENCODERS, build_encoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.text import SpecialIds, generate_text
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.io.config import read_config
from speechdlm_ext.models.trained_weights import TRAINED_ONLY, TrainedWeights
from speechdlm_ext.modules.backbone import (
    OWN_LLM,
    add_lora,
    config_of,
    find_folder,
    freeze_parameters,
    lend_embeddings,
    load_backbone,
    predict_tokens,
    take_embeddings,
)
from speechdlm_ext.modules.perception import Perception, find_encoder, load_encoder
from speechdlm_ext.neural_types import AudioSignal, LengthsType, MaskType, NeuralType, TokenIndex, typecheck

LORA = r"^.+\.lora_.+$"
TOKENIZER_FILES = ("tokenizer_config.json", SENTENCEPIECE)
DEFAULTS: dict[str, Any] = {
    "audio_locator_tag": "<|audioplaceholder|>",
    "prompt_format": "llama2",
    "pretrained_weights": True,
    "freeze_params": [],
    "prevent_freeze_params": [],
}


class SALMInputs(NamedTuple):
    """What the language model reads, padded on the left.

    Attributes:
        embeddings: ``(B, T, H)``.
        layout: of :func:`.splice`; its ``mask`` is what is no padding, bool ``(B, T)``.
        audio: embeddings of audio ``(A, F, H)``.
    """

    embeddings: Tensor
    layout: Mapping[str, Any]
    audio: Optional[Tensor] = None


@dataclass
class SALMConfig(FairseqDataclass):
    """Options of the model."""

    model_config: Optional[str] = field(
        default=None,
        metadata={
            "help": "YAML or JSON of the model as published (pretrained_llm, perception, lora, freeze_params, …)"
        },
    )
    pretrained_model: Optional[str] = field(
        default=None, metadata={"help": "folder of save_pretrained, or checkpoint, to start from"}
    )
    pretrained_llm: Optional[str] = field(
        default=None, metadata={"help": "language model instead of the one in the configuration"}
    )
    save_trained_only: bool = field(default=False, metadata={"help": TRAINED_ONLY})
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "recompute activations in the backward pass: less memory, more time"}
    )


@register_model("salm", dataclass=SALMConfig)
class SALM(TrainedWeights, BaseFairseqModel):
    """Prompts with audio to text; parameters are named as in the published weights.

    ::

        model = SALM.from_pretrained("path/to/folder").eval()
        prompt = [{"role": "user", "content": f"repeat: {model.audio_locator_tag}"}]
        ids = model.generate(prompts=[prompt], audios=audio, audio_lens=lengths, max_new_tokens=64)
        text = model.tokenizer.ids_to_text(ids[0])

    Args:
        cfg: the published ``model`` section: ``pretrained_llm`` (folder, name, ``.gguf`` file or a configuration),
            ``pretrained_weights``, ``pretrained_asr`` (see :func:`.find_encoder`), ``perception``,
            ``audio_locator_tag``, ``prompt_format``, ``lora``, ``freeze_params``, ``prevent_freeze_params``; also
            ``tokenizer``, where it is not with the language model.
        folder: of the model; relative paths are looked for from the working directory, then from there.

    Attributes:
        cfg: plain values.
        tokenizer: with the audio placeholder among its tokens.
        audio_locator_tag, audio_locator_tag_id: the placeholder.

    Raises:
        InputError: something is missing, or does not fit.
    """

    def __init__(self, cfg: Mapping[str, Any], folder: Union[str, os.PathLike[str], None] = None) -> None:
        super().__init__()
        self.cfg: dict[str, Any] = {**DEFAULTS, **deepcopy(dict(cfg))}
        self.folder = folder
        self.num_updates = 0
        self.start: Optional[str] = None  # the model that training began with
        for name in ("pretrained_llm", "perception"):
            if self.cfg.get(name) in (None, ""):  # an empty perception may come from pretrained_asr
                raise InputError(f"salm: no {name} in the model's configuration")
        self.audio_locator_tag: str = self.cfg["audio_locator_tag"]
        own = None if folder is None else Path(folder) / OWN_LLM
        self.source: Any = own if own is not None and own.is_dir() else self.cfg["pretrained_llm"]
        self.llm = load_backbone(self.source, bool(self.cfg["pretrained_weights"]), folder)
        self.embed_tokens: Any = take_embeddings(self.llm)
        self._load_tokenizer()
        if "lora" in self.cfg and self.cfg["lora"]:
            with lend_embeddings(self.llm, self.embed_tokens):  # peft looks for tied ones
                self.llm = add_lora(self.llm, {"task_type": "CAUSAL_LM", **self.cfg["lora"]})
            if LORA not in self.cfg["prevent_freeze_params"]:
                self.cfg["prevent_freeze_params"] = [*self.cfg["prevent_freeze_params"], LORA]
        self.perception = self._build_perception(self.cfg["perception"])
        freeze_parameters(self, self.cfg["freeze_params"], self.cfg["prevent_freeze_params"])

    def _load_tokenizer(self) -> None:
        folder, source = self.folder, self.cfg.get("tokenizer")
        if source is None and folder is not None and any((Path(folder) / name).is_file() for name in TOKENIZER_FILES):
            source = folder
        source = source or self.source
        if isinstance(source, Mapping):
            raise InputError("salm: pretrained_llm is a configuration: name a tokenizer (folder or tokenizer.model)")
        self.tokenizer = load_tokenizer(find_folder(source, folder) or source)
        rows, words = self.embed_tokens.weight.shape[0], len(self.tokenizer)
        self.audio_locator_tag_id = self.tokenizer.add_special_token(self.audio_locator_tag)
        if words > rows and not (words == rows + 1 and self.audio_locator_tag_id == rows):
            raise InputError(
                f"salm: a tokenizer of {words} tokens, the language model has {rows}: they are of different models"
            )

    def _build_perception(self, section: dict[str, Any]) -> Perception:
        """Of its section, which takes up what ``pretrained_asr`` and the language model give."""
        sections, weights = find_encoder(self.cfg, self.folder)
        section.update(sections)
        width = config_of(self.llm).hidden_size
        section.setdefault("output_dim", width)
        if section.get("output_rms") == "llm":
            section["output_rms"] = float(self.embed_tokens.weight.detach().float().square().mean().sqrt())
        options = dict(section.get("encoder") or {})
        kind = str(options.pop("_target_", ""))
        perception = Perception(section, build_encoder(kind, options) if kind in ENCODERS else None)
        if perception.output_dim != width:
            raise InputError(f"salm: perception.output_dim {perception.output_dim}, the language model has {width}")
        load_encoder(perception, weights, str(self.cfg.get("pretrained_asr")))
        return perception

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "SALM":
        """Build a model for ``task`` (fairseq's entry); raises :class:`InputError` for options that contradict."""
        model: SALM
        if task.origin is not None:  # a checkpoint is being read
            model = cls.from_origin(task.origin, args.save_trained_only)
        elif args.pretrained_model:
            model = cls.from_pretrained(args.pretrained_model)
            model.start = os.path.abspath(args.pretrained_model)
        elif args.model_config:
            path = Path(args.model_config)
            cfg = read_config(path, "model")
            if args.pretrained_llm:
                cfg["pretrained_llm"] = args.pretrained_llm
            model = cls(cfg, path.parent)
        else:
            raise InputError("--model-config with the model's configuration, or --pretrained-model, is needed")
        model.check_trained()
        if args.save_trained_only:
            model.leave_out_frozen(model.cfg, whole=model.start is not None)
        if args.checkpoint_activations:
            model.llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
        return model

    def origin(self) -> dict[str, Any]:
        """How the model is built again, and where its frozen weights are, as plain values with absolute paths."""
        found = None if isinstance(self.source, Mapping) else find_folder(self.source, self.folder)
        cfg = {**self.cfg, "pretrained_llm": str(found.absolute()) if found else self.source}
        asr = find_folder(cfg["pretrained_asr"], self.folder) if cfg.get("pretrained_asr") else None
        if all(parameter.requires_grad for parameter in self.perception.encoder.parameters()):
            cfg["pretrained_asr"] = None  # every checkpoint has the encoder
        elif asr is not None:
            cfg["pretrained_asr"] = str(asr.absolute())
        folder = None if self.folder is None else os.path.abspath(self.folder)
        return {"config": cfg, "folder": folder, "start": self.start}

    @classmethod
    def from_origin(cls, origin: Mapping[str, Any], frozen: bool) -> "SALM":
        """Build a model from :meth:`origin`; with ``frozen`` its frozen weights are read where they came from."""
        if frozen and origin["start"]:
            model = cls.from_pretrained(origin["start"])
            model.start = origin["start"]
            return model
        return cls({**origin["config"], "pretrained_weights": frozen}, origin["folder"])

    @classmethod
    def from_pretrained(cls, path_or_name: Union[str, os.PathLike[str]], **kwargs: Any) -> "SALM":
        """Load a folder, a ``.nemo`` file, a checkpoint or a published name; see :func:`.load_salm`."""
        # The seed's convention puts loading on the model's class; what loads it stands above the models.
        model: SALM = import_module("speechdlm_ext.checkpoints.salm").load_salm(path_or_name, **kwargs)
        return model

    def save_pretrained(self, folder: Union[str, os.PathLike[str]], overwrite: bool = False) -> None:
        """Write a folder without pickles; see :func:`speechdlm_ext.checkpoints.salm.save_salm`."""
        import_module("speechdlm_ext.checkpoints.salm").save_salm(self, folder, overwrite)

    def save_to(self, path: Union[str, os.PathLike[str]]) -> None:
        """Write a ``.nemo`` file."""
        import_module("speechdlm_ext.checkpoints.salm").save_salm_nemo(self, path)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def sampling_rate(self) -> int:
        """Of the audio, in Hz."""
        return self.perception.sample_rate

    @property
    def token_equivalent_duration(self) -> float:
        """Seconds of audio for one position."""
        return self.perception.token_equivalent_duration

    @property
    def special_ids(self) -> SpecialIds:
        """Ids of the beginning, the end and padding."""
        return SpecialIds(self.tokenizer.bos_id, self.tokenizer.eos_id, self.tokenizer.pad_id)

    def max_positions(self) -> Optional[int]:
        """Positions of the language model's context; None for any number."""
        return getattr(config_of(self.llm), "max_position_embeddings", None)

    @typecheck(
        {
            "input_ids": NeuralType(("B", "T"), TokenIndex()),
            "audios": NeuralType(("B", "T"), AudioSignal(), optional=True),
            "audio_lens": NeuralType(("B",), LengthsType(), optional=True),
            "loss_mask": NeuralType(("B", "T"), MaskType(), optional=True),
            "layout": NeuralType(optional=True),
            "predict": NeuralType(optional=True),
        },
        positional=True,
    )
    def forward(
        self,
        input_ids: Tensor,
        audios: Optional[Tensor] = None,
        audio_lens: Optional[Tensor] = None,
        loss_mask: Optional[Tensor] = None,
        layout: Optional[Mapping[str, Any]] = None,
        predict: bool = True,
    ) -> tuple[Optional[Tensor], dict[str, Any]]:
        """Predict each next token.

        Args:
            input_ids: padded on the left, ``(B, T)``.
            audios: of all placeholders in order, ``(A, N)``, full scale ±1; or the bits of such as int32, which
                fairseq does not round when it trains in half precision.
            audio_lens: samples of each, ``(A,)``.
            loss_mask: which tokens are trained on, bool ``(B, T)``.
            layout: of :func:`.splice`, made where the batch is, with ``samples``, what is in ``audio_lens``, as
                numbers; then only the last ``predictions`` are computed. By default it is made here, of what is
                fetched from the device, and all are computed.
            predict: False does not run the language model.

        Returns:
            Logits ``(B, P, V)`` or None, and ``{"target": (B, P)}`` with :data:`.IGNORED`, P being T' - 1 for T'
            positions after audio has taken its place, or ``predictions``; ``"audio"`` as in :class:`SALMInputs`.
        """
        inputs = self.prepare(input_ids, audios, audio_lens, loss_mask, layout)
        last = layout["predictions"] if layout is not None else inputs.embeddings.size(1) - 1
        extra = {"target": inputs.layout["target"][:, 1:][:, -last:], "audio": inputs.audio}
        if not predict:
            return None, extra
        return predict_tokens(self.llm, inputs.embeddings[:, :-1], inputs.layout["mask"][:, :-1], last=last), extra

    def set_num_updates(self, num_updates: int) -> None:
        """How many updates there were (called by fairseq)."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def prepare(
        self,
        input_ids: Tensor,
        audios: Optional[Tensor] = None,
        audio_lens: Optional[Tensor] = None,
        loss_mask: Optional[Tensor] = None,
        layout: Optional[Mapping[str, Any]] = None,
    ) -> SALMInputs:
        """Put embeddings of audio in place of the placeholders; arguments as :meth:`forward`.

        Raises:
            InputError: not as many audios as placeholders, an audio of no frames, or more positions than the language
                model's context.
        """
        device, tag = input_ids.device, self.audio_locator_tag_id
        if audio_lens is None or not len(audio_lens):
            audios = None
        if layout is None:
            frames = None if audios is None else self.perception.output_frames(audio_lens.cpu())  # type: ignore[union-attr]
            mask = None if loss_mask is None else loss_mask.cpu()
            made = splice(input_ids.cpu(), frames, mask, tag, self.tokenizer.pad_id, self.max_positions())
            layout = {name: one.to(device) if isinstance(one, Tensor) else one for name, one in made.items()}
        words = self.embed_tokens(input_ids.masked_fill(input_ids.eq(tag), 0)).flatten(0, 1)
        rows, audio = [words], None
        if audios is not None:
            wave = audios.view(torch.float32) if audios.dtype == torch.int32 else audios
            audio = self.perception(wave, audio_lens, layout.get("samples"))[0][:, : layout["width"]]
            rows.append(audio.flatten(0, 1).to(words.dtype))
        rows.append(words.new_zeros(1, words.size(1)))
        source = layout["source"]
        embeddings = torch.cat(rows).index_select(0, source.flatten()).unflatten(0, source.shape)
        return SALMInputs(embeddings, layout, audio)

    @torch.no_grad()
    def generate(
        self,
        prompts: Union[Sequence[Sequence[Mapping[str, Any]]], Tensor],
        audios: Optional[Tensor] = None,
        audio_lens: Optional[Tensor] = None,
        generation_config: Any = None,
        **generation_kwargs: Any,
    ) -> Tensor:
        """Answer prompts.

        Args:
            prompts: dialogues of ``{"role", "content"}`` with the placeholder where audio belongs, or instead with
                ``"audio": [paths]`` in a turn, whose placeholders it may have or not; or token ids ``(B, T)``, padded
                on the left.
            audios: in the order of the placeholders, ``(A, N)`` at :attr:`sampling_rate`, full scale ±1.
            audio_lens: samples of each, ``(A,)``.
            generation_config, generation_kwargs: see :func:`.generate_text`; greedy and 128 new tokens by default.

        Returns:
            Ids ``(B, n)``, filled with the padding id; of text alone the prompts come first, as published. Rows do not
            depend on each other.

        Raises:
            InputError: as :meth:`prepare`; both kinds of audio; audio with values that are not numbers.
        """
        if isinstance(prompts, Tensor):
            ids = prompts.to(self.device)
        else:
            dialogs, paths = name_placeholders(prompts, self.audio_locator_tag)
            if paths and audios is not None:
                raise InputError("audio is given both in the prompts and as audios: use one")
            if paths:
                waves = [read_audio(path, self.sampling_rate, channels=1)[0][0] for path in paths]
                audio_lens = torch.tensor([len(wave) for wave in waves])
                audios = nn.utils.rnn.pad_sequence(waves, batch_first=True)
            encoded = [
                encode_dialog(self.tokenizer, read_prompt(dialog, f"prompt {number}"), self.cfg["prompt_format"])[0]
                for number, dialog in enumerate(dialogs, 1)
            ]
            ids = pad_left(encoded, self.tokenizer.pad_id).to(self.device)
        if audios is not None:
            if audio_lens is None:
                raise InputError("audios without audio_lens")
            audios, audio_lens = audios.to(self.device), audio_lens.to(self.device)
            if not bool(torch.isfinite(audios).all()):
                raise InputError("audios have values that are not numbers")
        inputs = self.prepare(ids, audios, audio_lens)
        llm, words, special = self.llm, self.embed_tokens, self.special_ids
        if audios is None:
            mask = ids.ne(self.tokenizer.pad_id).cumsum(1).gt(0)
            return generate_text(llm, words, special, None, mask, ids, generation_config, **generation_kwargs)
        return generate_text(
            llm, words, special, inputs.embeddings, inputs.layout["mask"], None, generation_config, **generation_kwargs
        )

    def get_normalized_probs(self, net_output: Any, log_probs: bool, sample: Any = None) -> Tensor:
        """(Log) probabilities in fp32, ``(B, T, V)``."""
        logits = net_output[0].float()
        return logits.log_softmax(-1) if log_probs else logits.softmax(-1)
