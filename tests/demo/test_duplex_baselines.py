"""What the demo of duplex models compares with: a cascade of which the recogniser makes no errors, edits, words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.asr import Recogniser, Transcript
from speechdlm_ext.codecs import build_codec
from speechdlm_ext.data.duplex_cuts import read_cuts, read_sound
from speechdlm_ext.demo.duplex_baselines import PATIENCE, edits, measure, run_cascade, write_words
from speechdlm_ext.encoders.logmel import LogMelEncoder
from speechdlm_ext.io.manifest import read_jsonl
from speechdlm_ext.units.codebook import Codebook


class Known(Recogniser):
    """Says the words in the order in which they are spoken."""

    kind, usage = "known", "known"

    def __init__(self, words: list[str]) -> None:
        self.words = iter(words)

    @classmethod
    def from_spec(cls, model: str, device: str | None = None, **unused: str) -> Known:
        """See :meth:`Recogniser.from_spec`."""
        return cls(model.split())

    def transcribe(self, waves: torch.Tensor, lengths: Sequence[int]) -> list[Transcript]:
        """See :meth:`Recogniser.transcribe`."""
        return [Transcript(next(self.words)) for _ in lengths]


# By a process of its own: what espeak-ng said before in one changes its sound.
MAKE = """
from pathlib import Path
from speechdlm_ext.synthetic.requests import RequestOptions, make_requests
print(make_requests(Path("requests"), 3, RequestOptions(held_out=True, interruptions=1.0, seed=3)))
"""


def test_a_cascade_answers_after_its_patience_and_gives_way(tmp_path, run_command):
    manifest = tmp_path / run_command(["python", "-c", MAKE], cwd=tmp_path).stdout.strip()
    cuts = read_cuts(manifest)
    encoder = LogMelEncoder()
    frames = torch.cat([encoder.encode(read_sound(cut.target, 16000), 16000) for cut in cuts])
    Codebook(frames[:: len(frames) // 60][:60], "logmel", encoder.options, 50.0).save(tmp_path / "cb.safetensors")
    codec = build_codec(f"units:{tmp_path / 'cb.safetensors'}")
    words = [turn.text for cut in cuts for turn in cut.turns if turn.speaker == "user"]
    run_cascade(cuts, Known(words), codec, tmp_path / "said", clock=lambda: 0.0)
    found, script = measure(cuts, codec, tmp_path / "said"), measure(cuts, codec, None)
    assert script["answered_in_time"] == 1 and script["yields"] == 1 and script["follows_script"] >= 0.8
    assert found["answered_in_time"] == 1 and found["yields"] == 1 and found["follows_script"] >= 0.8
    assert PATIENCE - 0.1 < found["response_latency"] < PATIENCE + 0.2
    write_words(manifest, tmp_path / "words", valid=0.2)
    rows = [row for name in ("train", "valid") for row in read_jsonl(tmp_path / "words" / f"{name}.jsonl")]
    assert sorted(row["text"] for row in rows) == sorted(words)


@given(st.lists(st.integers(0, 3), max_size=6), st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_edits_between_sequences(found, expected):
    table = np.zeros((len(found) + 1, len(expected) + 1), int)
    table[:, 0], table[0] = range(len(found) + 1), range(len(expected) + 1)
    for i, one in enumerate(found):
        for j, other in enumerate(expected):
            table[i + 1, j + 1] = min(table[i, j + 1] + 1, table[i + 1, j] + 1, table[i, j] + (one != other))
    assert edits(found, expected) == table[-1, -1] and edits(found, expected, beginning=True) == table[-1].min()
