"""The baseline's files are what fairseq's fine-tuning reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechdlm_ext.demo.wav2vec_baseline import prepare, word_error_rate
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.manifest import write_jsonl


def test_fairseq_reads_recordings_texts_and_options(tmp_path: Path, data: Path) -> None:
    from fairseq import checkpoint_utils
    from fairseq.data import Dictionary, FileAudioDataset

    sound = next((data / "speech" / "fsdd_strings").glob("*.ogg"))
    corpus, folder = tmp_path / "corpus", tmp_path / "wav2vec"
    write_jsonl(corpus / "valid.json", [{"audio_filepath": str(sound), "duration": 3.0, "text": "one two"}])
    (corpus / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in "|enotw"))
    prepare(corpus, folder, 16000)
    sounds = FileAudioDataset(str(folder / "valid.tsv"), sample_rate=16000)
    assert len(sounds) == 1 and len(sounds[0]["source"]) > 16000
    letters = Dictionary.load(str(folder / "dict.ltr.txt"))
    symbols = letters.encode_line((folder / "valid.ltr").read_text(), append_eos=False, add_if_not_exist=False)
    assert letters.unk() not in symbols.tolist() and letters.string(symbols) == "o n e | t w o |"
    options = checkpoint_utils.load_checkpoint_to_cpu(str(folder / "options.pt"), {"dropout": 0.1})
    assert options["cfg"].model._name == "wav2vec2" and not options["model"]


def test_the_last_rate_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("valid | wer 99.5 | raw_wer 100\ntest | uer 10.1 | wer 36.4 | raw_wer 1\n")
    assert word_error_rate(log) == 36.4
    log.write_text("nothing")
    with pytest.raises(InputError, match="no WER"):
        word_error_rate(log)
