"""The configurations, as fairseq-hydra-train composes them: an ablation in single steps, and the published recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.experimental import compose, initialize_config_dir
from omegaconf import OmegaConf

import speechdlm_ext  # noqa: F401 - registers
from tests.helpers.published_commands import TRAIN, words

pytestmark = pytest.mark.commands

ABLATION = [
    "speech_dlm_next_unit",
    "speech_dlm_next_unit_cross",
    "speech_dlm_edge",
    "speech_dlm_edge_duration",
    "speech_dlm_edge_delayed_duration",
]
# The model reads two options of the task by reference.
STEPS = [
    {"model.decoder_cross_layers": (0, 4)},
    {
        "task.next_unit_prediction": ("True", "False"),
        "task.edge_unit_prediction": ("False", "True"),
        "criterion.general_unit_loss_weight": (1.0, 0.0),
    },
    {"task.duration_prediction": ("False", "True"), "model.duration_prediction": ("False", "True")},
    {"task.delayed_duration_target": ("False", "True"), "model.delayed_duration_target": ("False", "True")},
]
PLACES = {"task.data", "checkpoint.save_dir", "common.tensorboard_logdir", "common.user_dir"}


@pytest.fixture(scope="module")
def composed(checkout: Path) -> dict[str, dict[str, Any]]:
    """Each configuration with all its defaults, flat, as fairseq-hydra-train starts with it."""
    from fairseq.dataclass.initialize import add_defaults, hydra_init

    made = {}
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(config_dir=str(checkout / "configs")):
        patch.setenv("SPEECHDLM_USER_DIR", str(checkout / "speechdlm_ext"))
        for name in sorted(path.stem for path in (checkout / "configs").glob("speech_dlm_*.yaml")):
            hydra_init(name)
            cfg = compose(name, overrides=["task.data=data-bin"])
            add_defaults(cfg)
            made[name] = flat(cfg)
    return made


def flat(cfg: Any) -> dict[str, Any]:
    """Every option of every group by ``group.name``, interpolations resolved."""
    groups = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(groups, dict)
    return {
        f"{group}.{name}": value
        for group, options in groups.items()
        if isinstance(options, dict)
        for name, value in options.items()
    }


def from_command_line(command: str) -> dict[str, Any]:
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    _, *arguments = words(command, {"BIN_DATA_DIR": "data-bin", "CHECKPOINT_DIR": "checkpoints"})
    parsed = options.parse_args_and_arch(options.get_training_parser(), arguments)
    return flat(convert_namespace_to_omegaconf(parsed))


def differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    assert one.keys() == other.keys()
    return {name: (value, other[name]) for name, value in one.items() if value != other[name]}


def test_each_step_of_the_ablation_changes_one_thing(composed: dict[str, dict[str, Any]]) -> None:
    configs = [composed[name] for name in ABLATION]
    found = [differing(before, after) for before, after in zip(configs, configs[1:], strict=False)]
    assert found == STEPS


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("speech_dlm_edge_delayed_duration", TRAIN),
        ("speech_dlm_big", TRAIN.replace("--arch speech_dlm ", "--arch speech_dlm_big ")),
    ],
)
def test_the_published_command_line_says_the_same(composed: dict[str, dict[str, Any]], name: str, command: str) -> None:
    config, command_line = composed[name], from_command_line(command)
    unequal = {option for option in config if config[option] != command_line.get(option)}
    unequal |= {option for option in command_line if option not in config and not option.startswith("scoring.")}
    assert unequal - PLACES == ({"model._name"} if "big" in name else set())
    assert command_line["common.fp16"] and command_line["optimization.update_freq"] == [16]


def test_the_big_one_differs_in_size_alone(composed: dict[str, dict[str, Any]]) -> None:
    found = differing(composed["speech_dlm_edge_delayed_duration"], composed["speech_dlm_big"])
    assert found == {
        "model.decoder_layers": (6, 12),
        "model.decoder_embed_dim": (512, 1024),
        "model.decoder_ffn_embed_dim": (2048, 4096),
        "model.decoder_attention_heads": (8, 16),
    }


def test_every_config_builds_its_model_and_loss(composed: dict[str, dict[str, Any]], data: Path) -> None:
    """Each option is one that the task, model and criterion know, with a value that they take."""
    import torch
    from fairseq import criterions, tasks
    from fairseq.models import build_model

    assert set(ABLATION) | {"speech_dlm_big", "speech_dlm_small"} == composed.keys()
    for name in composed:
        options = {**composed[name], "task.data": str(data / "reference" / "bin")}
        groups: dict[str, Any] = {}
        for option, value in options.items():
            group, _, field = option.partition(".")
            groups.setdefault(group, {})[field] = value
        cfg = OmegaConf.create({group: groups[group] for group in ("task", "model", "criterion")})
        task = tasks.setup_task(cfg.task)
        with torch.device("meta"):  # shapes alone
            model = build_model(cfg.model, task)
        criterions.build_criterion(cfg.criterion, task)
        sizes = {"speech_dlm_big": (12, 4), "speech_dlm_small": (4, 3), "speech_dlm_next_unit": (6, 0)}
        crossing = [bool(re.search("cross", str(list(layer.state_dict())))) for layer in model.decoder.layers]
        assert (len(crossing), sum(crossing)) == sizes.get(name, (6, 4)) and crossing == sorted(crossing)
        assert bool(len(model.decoder.output_duration_prediction)) == (groups["task"]["duration_prediction"] == "True")
