"""The published examples, as the documentation has them, run on a tiny model."""

import json
import re
from pathlib import Path

import torch
import yaml

from speechdlm_ext.hub import SALM
from speechdlm_ext.io.audio import write_audio
from speechdlm_ext.io.config import read_config
from tests.helpers.salm_models import write_config, write_conversations

PAGE = Path(__file__).parents[2] / "docs" / "speech_text_models.md"


def run_block(marker, folder, **paths):
    """The block of the page with ``marker``, with other paths in the place of those that it names."""
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if marker in block)
    for name, here in paths.items():
        assert name in code
        code = code.replace(name, str(folder / here))
    exec(compile(code, str(PAGE), "exec"), {"torch": torch})


def test_inference(tmp_path, capsys):
    path = write_config(tmp_path)
    SALM(read_config(path, "model"), tmp_path).save_pretrained(tmp_path / "saved")
    write_audio(tmp_path / "audio.wav", torch.sin(torch.arange(16000) / 9)[None] * 0.5, 22050)
    run_block("generate(", tmp_path, **{"path/to/pretrained_checkpoint": "saved", "path/to/audio.wav": "audio.wav"})
    assert capsys.readouterr().out.startswith("Model response: ")


def test_training(tmp_path):
    model = json.loads(write_config(tmp_path).read_text())["model"] | {"pretrained_llm": str(tmp_path / "llm")}
    source = {"type": "lhotse_as_conversation", "manifest_filepath": str(write_conversations(tmp_path, "train", 5))}
    data = {"train_ds": {"input_cfg": [source], "batch_size": 3, "seed": 1}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    torch.manual_seed(1)
    run_block("save_to(", tmp_path, **{"path/to/config.yaml": "config.yaml", "path/to/save/model.nemo": "model.nemo"})
    torch.manual_seed(1)
    before, after = SALM(model), SALM.from_pretrained(tmp_path / "model.nemo")
    moved = {
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert moved and all(name.startswith("perception.") for name in moved)
