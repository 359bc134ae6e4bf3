"""Names and calls that other packages dropped and fairseq still uses: of numpy, bitarray, librosa and matplotlib."""

from __future__ import annotations

import types
from typing import Any

from .repair import Repair, at_least, replace


def _give_numpy_aliases(module: Any) -> None:
    """Let ``module.np`` be numpy with the aliases of Python's types that it once had."""
    # A copy of the namespace, not a proxy: attribute access stays as fast as numpy's own.
    aliased = types.ModuleType("numpy", module.np.__doc__)
    vars(aliased).update(vars(module.np))
    # Only these: code that asks for another dropped name should say so.
    for name, value in {"int": int, "float": float, "compat": types.SimpleNamespace(long=int)}.items():
        vars(aliased).setdefault(name, value)
    module.np = aliased


def _find_last_bit(module: Any) -> None:
    @replace(module.HuffmanCoder, "_unpad")
    def _unpad(self: Any, a: Any) -> Any:
        return a[: len(a) - 1 - a[::-1].index(1)]


def _name_arguments_of_mel(module: Any) -> None:
    @replace(module, "get_mel_filters")
    def get_mel_filters(sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float) -> Any:
        try:
            from librosa.filters import mel
        except ImportError as error:
            raise ImportError("Please install librosa: pip install librosa") from error
        return module.torch.from_numpy(mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=f_min, fmax=f_max)).float()


def _read_figure(module: Any) -> None:
    @replace(module, "save_figure_to_numpy")
    def save_figure_to_numpy(fig: Any) -> Any:
        fig.canvas.draw()
        return module.np.asarray(fig.canvas.buffer_rgba())[..., :3].copy()


REPAIRS = [
    Repair(
        name="numpy-aliases",
        package="fairseq",
        fault="AttributeError: module 'numpy' has no attribute 'int' / 'float' / 'compat'",
        versions="numpy ≥ 1.24",
        needed=lambda: at_least("numpy", 1, 24),
        # The only modules of fairseq 0.12.2 that its commands import and that use such a name.
        changes={
            "fairseq.data.data_utils": _give_numpy_aliases,
            "fairseq.data.language_pair_dataset": _give_numpy_aliases,
            "fairseq.data.token_block_dataset": _give_numpy_aliases,
            "fairseq.modules.dynamic_crf_layer": _give_numpy_aliases,
        },
    ),
    Repair(
        name="bitarray-rindex",
        package="fairseq",
        fault="AttributeError: module 'bitarray.util' has no attribute 'rindex' (Huffman-coded data)",
        versions="bitarray ≥ 3",
        needed=lambda: at_least("bitarray", 3),
        changes={"fairseq.data.huffman.huffman_coder": _find_last_bit},
    ),
    Repair(
        name="mel-filters",
        package="fairseq",
        fault="TypeError: mel() takes 0 positional arguments but 5 were given (text to speech)",
        versions="librosa ≥ 0.10",
        changes={"fairseq.data.audio.audio_utils": _name_arguments_of_mel},
    ),
    Repair(
        name="figures",
        package="fairseq",
        fault="AttributeError: 'FigureCanvasAgg' object has no attribute 'tostring_rgb' (text to speech)",
        versions="matplotlib ≥ 3.10",
        changes={"fairseq.tasks.text_to_speech": _read_figure},
    ),
]
