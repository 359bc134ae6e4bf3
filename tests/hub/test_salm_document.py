"""The published example, as the documentation has it, runs on a tiny model."""

import re
from pathlib import Path

import torch

from speechdlm_ext.hub import SALM
from speechdlm_ext.io.audio import write_audio
from speechdlm_ext.models.salm import read_model_config
from tests.helpers.salm_models import write_config

PAGE = Path(__file__).parents[2] / "docs" / "speech_text_models.md"


def test_the_documents_example_runs(tmp_path, capsys):
    path = write_config(tmp_path)
    SALM(read_model_config(path), tmp_path).save_pretrained(tmp_path / "saved")
    write_audio(tmp_path / "audio.wav", torch.sin(torch.arange(16000) / 9)[None] * 0.5, 22050)
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "generate(" in block)
    for name, here in (("path/to/pretrained_checkpoint", "saved"), ("path/to/audio.wav", "audio.wav")):
        assert name in code
        code = code.replace(name, str(tmp_path / here))
    exec(compile(code, str(PAGE), "exec"), {})
    assert capsys.readouterr().out.startswith("Model response: ")
