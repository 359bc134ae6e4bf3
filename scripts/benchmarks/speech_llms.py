"""SALM and DuplexS2S beside NeMo's own classes: the same configurations, random weights, each in its environment."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.comparison import Comparison, in_turns
from benchmarks.environments import nemo
from benchmarks.sides import Settings, ours
from speechdlm_ext.errors import InputError

# What NeMo wrote of tiny models: configurations, a tokenizer, and an audio codec.
REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "nemo" / "speechlm"
# SmolLM2-135M, and a FastConformer of four layers.
LLM = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}  # fmt: skip
WIDTH, LAYERS = 256, 4
SECONDS, ROWS = 4.0, 2


def measure(settings: Settings) -> Iterator[Comparison]:
    """A training step of SALM and DuplexS2S on 2 rows of 4 s, and generating, beside NeMo: tiny, and of 135 million."""
    if not REFERENCE.is_dir():
        raise InputError(f"{REFERENCE} is needed for configurations, tokenizer and codec")
    for size in ("tiny", "135m"):
        with tempfile.TemporaryDirectory() as temporary:
            folder = _write(Path(temporary), size)
            for kind in ("salm", "duplex"):
                for work in ("train", "generate"):
                    asked = {
                        **settings.common(), "work": f"llm-{work}", "kind": kind, "folder": str(folder), "rows": ROWS,
                        "seconds": SECONDS,
                    }  # fmt: skip
                    with nemo({**asked, "side": "nemo"}) as theirs, ours({**asked, "side": "ours"}) as own:
                        rates = in_turns(
                            lambda theirs=theirs: theirs.rate("sound"),
                            lambda own=own: own.rate("sound"),
                            settings.rounds or 3,
                        )
                    yield Comparison(f"{kind}-{work}-{size}", *rates, "× real time", more_is_better=True)


def _write(folder: Path, size: str) -> Path:
    """``salm.json``, ``duplex.json``, and what they name."""
    shutil.copytree(REFERENCE / "llm", folder / "llm")
    shutil.copy(REFERENCE / "codec.nemo", folder / "codec.nemo")
    llm = json.loads((folder / "llm/config.json").read_text(encoding="utf-8"))
    for kind, name in (("salm", "salm"), ("duplex", "duplex_s2s")):
        cfg = json.loads((REFERENCE / name / "model/config.json").read_text(encoding="utf-8"))
        cfg = {key: value for key, value in cfg.items() if key not in ("architectures", "model_type")}
        cfg |= {"pretrained_llm": str(folder / "llm"), "pretrained_weights": False}
        if kind == "duplex":
            cfg["pretrained_audio_codec"] = str(folder / "codec.nemo")
        if size != "tiny":
            _enlarge(cfg["perception"])
        (folder / f"{kind}.json").write_text(json.dumps(cfg), encoding="utf-8")
    if size != "tiny":
        (folder / "llm/config.json").write_text(json.dumps(llm | LLM), encoding="utf-8")
    return folder


def _enlarge(perception: dict[str, Any]) -> None:
    perception["output_dim"] = LLM["hidden_size"]
    for part in ("encoder", "modality_adapter"):
        if "d_model" in perception[part]:
            perception[part]["d_model"] = WIDTH
    perception["encoder"]["n_layers"] = LAYERS
    if "feat_in" in perception["modality_adapter"]:
        perception["modality_adapter"]["feat_in"] = WIDTH
