"""Repairs of single functions of fairseq: each held against an independent computation."""

from __future__ import annotations

import io
import random
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.compat.fairseq.levenshtein import edit_path

SYMBOLS = st.lists(st.integers(4, 7), max_size=9)


def _common(one: list[int], other: list[int]) -> int:
    """The length of the longest common subsequence, by trying all ways."""
    if not one or not other:
        return 0
    if one[0] == other[0]:
        return 1 + _common(one[1:], other[1:])
    return max(_common(one[1:], other), _common(one, other[1:]))


@given(SYMBOLS, SYMBOLS)
def test_an_edit_path_makes_the_target_with_the_fewest_edits(source: list[int], target: list[int]) -> None:
    *inserted, deleted = ([symbol for symbol in part if symbol != 1] for part in edit_path(source, target, 1))
    deleted = [symbol for symbol in edit_path(source, target, 9)[-1] if symbol != 9] if source else []
    assert len(inserted) == len(source) + 1 and len(deleted) == len(source)
    made = list(inserted[0])
    for symbol, is_deleted, more in zip(source, deleted, inserted[1:], strict=True):
        made += [*([] if is_deleted else [symbol]), *more]
    assert made == target
    assert sum(deleted) + sum(map(len, inserted)) == len(source) + len(target) - 2 * _common(source, target)


def test_levenshtein_transformers_get_their_labels() -> None:
    import torch
    from fairseq import libnat
    from fairseq.models.nat.levenshtein_utils import _get_del_targets, _get_ins_targets

    assert libnat.suggested_ed2_path([[4, 5]], [[4, 6, 5]], 1) == [[[1], [6], [1], [0, 0]]]
    longer, shorter = torch.tensor([[0, 4, 6, 5, 2]]), torch.tensor([[0, 4, 5, 2, 1]])
    assert _get_del_targets(longer, shorter, 1).tolist() == [[0, 0, 1, 0, 0]]
    masked, tokens, counts = _get_ins_targets(shorter, longer, 1, 3)
    assert masked.tolist() == [[False, False, True, False, False]] and tokens.tolist() == [[0, 4, 3, 5, 2]]
    assert counts.tolist() == [[0, 1, 0, 0]]


def test_denoising_takes_a_model_with_the_same_option(tmp_path: Path) -> None:
    from fairseq import options

    words = [str(tmp_path), "--task", "denoising", "--arch", "bart_base", "--max-tokens", "10"]
    for more, found in (([], 1024), (["--max-source-positions", "77"], 77)):
        args = options.parse_args_and_arch(options.get_training_parser(), [*words, *more])
        assert args.max_source_positions == found and args.replace_length == -1


def test_huffman_coded_text_comes_back() -> None:
    from fairseq.data.huffman.huffman_coder import HuffmanCodeBuilder

    words = random.Random(1).choices("abcdefg", weights=range(1, 8), k=500)
    builder = HuffmanCodeBuilder()
    builder.add_symbols(*words)
    coder = builder.build_code()
    for end in range(1, 30):
        assert [node.symbol for node in coder.decode(coder.encode(words[:end]))] == words[:end]


def test_mel_filters_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from fairseq.data.audio.audio_utils import get_mel_filters

    def mel(*, sr: float, n_fft: int, n_mels: int, fmin: float, fmax: float) -> Any:  # the signature of librosa 0.10
        return np.full((n_mels, n_fft // 2 + 1), sr + fmin + fmax)

    filters = types.ModuleType("librosa.filters")
    filters.mel = mel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "librosa", types.ModuleType("librosa"))
    monkeypatch.setitem(sys.modules, "librosa.filters", filters)
    made = get_mel_filters(16000, 400, 80, 20.0, 7600.0)
    assert made.shape == (80, 201) and float(made[0, 0]) == 23620.0


@pytest.mark.commands  # the first import of matplotlib asks fc-list for fonts
def test_figures_become_arrays() -> None:
    figure_module = pytest.importorskip("matplotlib.figure")
    from fairseq.tasks.text_to_speech import save_figure_to_numpy
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = figure_module.Figure(figsize=(2, 1), dpi=10, facecolor=(1.0, 0.0, 0.0))
    FigureCanvasAgg(figure)
    made = save_figure_to_numpy(figure)
    assert made.shape == (10, 20, 3) and made.dtype == np.uint8
    assert made.reshape(-1, 3).tolist() == [[255, 0, 0]] * 200


def test_interactive_reads_any_input_that_a_program_puts_in_place_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from fairseq_cli.interactive import buffered_read

    content = b"\xef\xbb\xbf3 1\n4 \xff\n\n"
    for made in (io.StringIO("\ufeff3 1\n4 \udcff\n\n"), io.TextIOWrapper(io.BytesIO(content), encoding="ascii")):
        monkeypatch.setattr(sys, "stdin", made)
        assert list(buffered_read("-", 2)) == [["3 1", "4 \udcff"], [""]]
        assert not made.closed


def test_no_module_keeps_the_substitute_of_the_dataclass_decorator(run_command: Any) -> None:
    program = """
import dataclasses, sys, types
import fairseq.dataclass.configs, hydra.conf
modules = [module for module in sys.modules.values() if isinstance(module, types.ModuleType)]
found = {module.__name__: vars(module).get("dataclass") for module in modules}
functions = {name: value for name, value in found.items() if isinstance(value, types.FunctionType)}
assert len(functions) > 20
print(sorted(name for name, value in functions.items() if value is not dataclasses.dataclass))
"""
    assert run_command(["python", "-c", program]).stdout.splitlines()[-1] == "[]"


def test_the_package_imports_no_fairseq_and_registers_by_user_dir_all_the_same(run_command: Any, checkout: Any) -> None:
    program = f"""
import sys
import speechdlm_ext
assert not {{"fairseq", "torch", "numpy"}} & set(sys.modules)
from argparse import Namespace
from fairseq import utils
from fairseq.tasks import TASK_REGISTRY
assert "speech_dlm_task" not in TASK_REGISTRY
utils.import_user_module(Namespace(user_dir={str(checkout / "speechdlm_ext")!r}))
print("speech_dlm_task" in TASK_REGISTRY)
"""
    assert run_command(["python", "-c", program]).stdout.splitlines()[-1] == "True"
