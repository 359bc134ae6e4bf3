"""SALM: a text language model with audio; embeddings stand where a prompt has placeholders (NeMo speechlm2)."""

import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import torch
import yaml
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from speechdlm_ext.data.llm_tokenizer import SENTENCEPIECE, load_tokenizer
from speechdlm_ext.data.prompts import encode_dialog, read_prompt
from speechdlm_ext.data.salm_dataset import pad_left
from speechdlm_ext.encoders.base import ENCODERS, build_encoder
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.generation.text import SpecialIds, generate_text
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.io.nemo import read_nemo
from speechdlm_ext.modules.backbone import (
    add_lora,
    config_of,
    find_folder,
    freeze_parameters,
    lend_embeddings,
    load_backbone,
    predict_tokens,
    take_embeddings,
)
from speechdlm_ext.modules.perception import Perception

IGNORED = -100  # a target that is not trained on
LORA = r"^.+\.lora_.+$"
TOKENIZER_FILES = ("tokenizer_config.json", SENTENCEPIECE)
OWN_LLM = "llm_backbone"  # its configuration in a model's folder
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
        mask: what is no padding, bool ``(B, T)``.
        targets: the token at each position, ``(B, T)``; :data:`IGNORED` at audio, padding, and outside the loss mask.
        audio: embeddings of audio ``(A, F, H)`` and their valid frames ``(A,)``.
    """

    embeddings: Tensor
    mask: Tensor
    targets: Tensor
    audio: Optional[tuple[Tensor, Tensor]] = None


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
    save_trained_only: bool = field(
        default=False,
        metadata={"help": "keep only trained weights in checkpoints; the rest is read where it came from"},
    )
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "recompute activations in the backward pass: less memory, more time"}
    )


@register_model("salm", dataclass=SALMConfig)
class SALM(BaseFairseqModel):
    """Prompts with audio to text; parameters are named as in the published weights.

    ::

        model = SALM.from_pretrained("path/to/folder").eval()
        prompt = [{"role": "user", "content": f"repeat: {model.audio_locator_tag}"}]
        ids = model.generate(prompts=[prompt], audios=audio, audio_lens=lengths, max_new_tokens=64)
        text = model.tokenizer.ids_to_text(ids[0])

    Args:
        cfg: the published ``model`` section: ``pretrained_llm`` (folder, name, ``.gguf`` file or a configuration),
            ``pretrained_weights``, ``perception``, ``audio_locator_tag``, ``prompt_format``, ``lora``,
            ``freeze_params``, ``prevent_freeze_params``; also ``tokenizer``, where it is not with the language model.
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
        self.folder, self.save_trained_only = folder, False
        self.num_updates = 0
        self.start: Optional[str] = None  # the model that training began with
        for name in ("pretrained_llm", "perception"):
            if not self.cfg.get(name):
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
        self.perception = _build_perception(self.cfg["perception"])
        width = config_of(self.llm).hidden_size
        if self.perception.output_dim != width:
            raise InputError(
                f"salm: perception.output_dim {self.perception.output_dim}, the language model has {width}"
            )
        if self.cfg["pretrained_weights"]:
            self._load_speech_encoder()
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

    def _load_speech_encoder(self) -> None:
        """Features and encoder of a recogniser, where ``pretrained_asr`` names a ``.nemo`` file."""
        source = self.cfg.get("pretrained_asr")
        if not source or source == "none":
            return
        path = find_folder(source, self.folder)
        if path is None:
            raise InputError(f"pretrained_asr {source}: no such file; download its .nemo file, or say none")
        found = read_nemo(path)
        for part in ("preprocessor", "encoder"):
            weights = {
                name[len(part) + 1 :]: value for name, value in found.weights.items() if name.startswith(part + ".")
            }
            try:
                getattr(self.perception, part).load_state_dict(weights)
            except RuntimeError as error:
                raise InputError(
                    f"{path}: its {part} is not that of the configuration ({one_line(error)[:200]})"
                ) from None

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
            cfg = read_model_config(path)
            if args.pretrained_llm:
                cfg["pretrained_llm"] = args.pretrained_llm
            model = cls(cfg, path.parent)
        else:
            raise InputError("--model-config with the model's configuration, or --pretrained-model, is needed")
        if args.save_trained_only and model.start is None and not model.cfg["pretrained_weights"]:
            raise InputError("--save-trained-only: the frozen weights are random (pretrained_weights: false)")
        model.save_trained_only = args.save_trained_only
        if args.checkpoint_activations:
            model.llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
        return model

    def origin(self) -> dict[str, Any]:
        """How the model is built again, and where its frozen weights are, as plain values with absolute paths."""
        found = None if isinstance(self.source, Mapping) else find_folder(self.source, self.folder)
        cfg = {**self.cfg, "pretrained_llm": str(found.absolute()) if found else self.source}
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

    def train(self, mode: bool = True) -> "SALM":
        """As of any module, but what is frozen keeps its running means."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(
                parameter.requires_grad for parameter in module.parameters()
            ):
                module.eval()
        return self

    def forward(
        self,
        input_ids: Tensor,
        audios: Optional[Tensor] = None,
        audio_lens: Optional[Tensor] = None,
        loss_mask: Optional[Tensor] = None,
        predict: bool = True,
    ) -> tuple[Optional[Tensor], dict[str, Any]]:
        """Predict each next token.

        Args:
            input_ids: padded on the left, ``(B, T)``.
            audios: of all placeholders in order, ``(A, N)``, full scale ±1; or the bits of such as int32, which
                fairseq does not round when it trains in half precision.
            audio_lens: samples of each, ``(A,)``.
            loss_mask: which tokens are trained on, bool ``(B, T)``.
            predict: False does not run the language model.

        Returns:
            Logits ``(B, T' - 1, V)`` or None, and ``{"target": (B, T' - 1)}`` with :data:`IGNORED`, T' being the
            positions after audio has taken its place; ``"audio"`` as in :class:`SALMInputs`.
        """
        inputs = self.prepare(input_ids, audios, audio_lens, loss_mask)
        extra = {"target": inputs.targets[:, 1:], "audio": inputs.audio}
        if not predict:
            return None, extra
        return predict_tokens(self.llm, inputs.embeddings[:, :-1], inputs.mask[:, :-1]), extra

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
    ) -> SALMInputs:
        """Put embeddings of audio in place of the placeholders; arguments as :meth:`forward`.

        Raises:
            InputError: not as many audios as placeholders, an audio of no frames, or more positions than the language
                model's context.
        """
        is_tag = input_ids.eq(self.audio_locator_tag_id)
        present = input_ids.ne(self.tokenizer.pad_id).cumsum(1).gt(0)  # only padding on the left is none
        found = frames = None
        if audios is not None and audio_lens is not None and len(audios):
            wave = audios.view(torch.float32) if audios.dtype == torch.int32 else audios
            found, frames = self.perception(wave, audio_lens)
        widths = present.long()  # positions of each token
        tags = int(is_tag.sum())
        count = 0 if frames is None else len(frames)
        if tags != count:
            raise InputError(f"{tags} placeholders {self.audio_locator_tag} for {count} audios: expected one each")
        if frames is not None:
            widths = widths.masked_scatter(is_tag, frames.long())
        ends = widths.cumsum(1)
        length = int(ends[:, -1].max())
        if frames is not None and not bool(frames.gt(0).all()):
            raise InputError(f"an audio without a frame ({1000 * self.token_equivalent_duration:g} ms): it is empty")
        limit = self.max_positions()
        if limit is not None and length > limit:
            raise InputError(f"{length} positions of text and audio, the language model has {limit}: use shorter audio")
        rows = torch.arange(len(input_ids), device=input_ids.device).unsqueeze(1)
        starts = ends - widths + length - ends[:, -1:] + rows * length  # in all rows one after another
        nowhere = len(input_ids) * length  # what is not used is written there
        words = self.embed_tokens(input_ids.masked_fill(is_tag, 0))
        embeddings = words.new_zeros(nowhere + 1, words.size(-1))
        at = starts.masked_fill(is_tag | ~present, nowhere)
        embeddings = embeddings.index_put((at.flatten(),), words.flatten(0, 1))
        if found is not None and frames is not None:
            steps = torch.arange(found.size(1), device=found.device)
            places = (starts[is_tag].unsqueeze(1) + steps).masked_fill(steps >= frames.unsqueeze(1), nowhere)
            embeddings = embeddings.index_put((places.flatten(),), found.flatten(0, 1).to(words.dtype))
        trained = present & ~is_tag if loss_mask is None else present & ~is_tag & loss_mask
        targets = input_ids.new_full((nowhere + 1,), IGNORED)
        targets = targets.index_put((at.flatten(),), input_ids.masked_fill(~trained, IGNORED).flatten())
        shape = (len(input_ids), length)
        mask = torch.arange(length, device=input_ids.device) >= length - ends[:, -1:]
        zeros = ~mask.unsqueeze(-1)
        audio = None if found is None or frames is None else (found, frames)
        embeddings = embeddings[:-1].view(*shape, -1).masked_fill(zeros, 0.0)
        return SALMInputs(embeddings, mask, targets[:-1].view(shape), audio)

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
            dialogs, waves = self._with_audio(prompts)
            if waves and audios is not None:
                raise InputError("audio is given both in the prompts and as audios: use one")
            if waves:
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
            llm, words, special, inputs.embeddings, inputs.mask, None, generation_config, **generation_kwargs
        )

    def _with_audio(self, prompts: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[list[Any], list[Tensor]]:
        """Prompts with a placeholder for each of their audio files, and these."""
        waves, dialogs = [], []
        for prompt in prompts:
            dialog = []
            for turn in prompt:
                paths = turn.get("audio") or []
                if paths:
                    text = str(turn.get("content", ""))
                    missing = len(paths) - text.count(self.audio_locator_tag)
                    turn = {**turn, "content": " ".join([*[text] * bool(text), *[self.audio_locator_tag] * missing])}
                    waves += [read_audio(path, self.sampling_rate, channels=1)[0][0] for path in paths]
                dialog.append(turn)
            dialogs.append(dialog)
        return dialogs, waves

    def get_normalized_probs(self, net_output: Any, log_probs: bool, sample: Any = None) -> Tensor:
        """(Log) probabilities in fp32, ``(B, T, V)``."""
        logits = net_output[0].float()
        return logits.log_softmax(-1) if log_probs else logits.softmax(-1)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """All weights, or with :attr:`save_trained_only` those that are trained, and buffers of what is."""
        state = super().state_dict(*args, **kwargs)
        if not self.save_trained_only:
            return state
        prefix = kwargs.get("prefix", "")
        kept = self.trained_names()
        return {name: value for name, value in state.items() if name[len(prefix) :] in kept}

    def trained_names(self) -> set[str]:
        """Names of trained parameters, and of the buffers of modules that have some."""
        names = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        modules = {name.rpartition(".")[0] for name in names}
        return names | {name for name, _ in self.named_buffers() if name.rpartition(".")[0] in modules}

    def load_state_dict(self, state_dict: Any, strict: bool = True, model_cfg: Any = None, args: Any = None) -> Any:
        """Take weights (fairseq's entry): all of them, or where only these are kept, the trained ones."""
        names = set(nn.Module.state_dict(self))
        partial = self.save_trained_only or getattr(model_cfg, "save_trained_only", False)
        missing = names - set(state_dict) - (names - self.trained_names() if partial else set())
        unknown = set(state_dict) - names
        if strict and (missing or unknown):
            kind, name = ("has no weights", min(missing)) if missing else ("has unknown weights", min(unknown))
            raise InputError(f"the checkpoint {kind} {name}: it is of another model, or was trained with other options")
        try:
            return nn.Module.load_state_dict(self, state_dict, strict=False)
        except RuntimeError as error:
            raise InputError(f"the checkpoint is of another model ({one_line(error)[:300]})") from None


def read_model_config(path: Union[str, os.PathLike[str]]) -> dict[str, Any]:
    """A model's configuration from YAML or JSON: the file, or its section ``model``.

    Raises:
        InputError: it is missing, or no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = json.loads(text) if str(path).endswith(".json") else yaml.safe_load(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)[:200]})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping, found {type(values).__name__}")
    section = values.get("model", values)
    return dict(section)


def _build_perception(section: Mapping[str, Any]) -> Perception:
    options = dict(section.get("encoder") or {})
    kind = str(options.pop("_target_", ""))
    return Perception(section, build_encoder(kind, options) if kind in ENCODERS else None)
