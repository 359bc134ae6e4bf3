"""DP-SLM's figure: how well resynthesized units are recognised, against their bitrate."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from speechdlm_ext.errors import InputError, optional_import
from speechdlm_ext.io.atomic import atomic_write

COLUMNS = (
    "k", "lambda", "bitrate", "unit_rate", "wer_median", "wer", "cer_median", "cer", "same_different", "abx",
    "utterances", "seconds",
)  # fmt: skip
SHORTEST_WORD = 0.2  # seconds, of words that are compared


class Pair(NamedTuple):
    """Size of a codebook, K, and duration penalty, λ."""

    k: int
    penalty: float

    @property
    def name(self) -> str:
        """For example ``k500-l4500``."""
        return f"k{self.k}-l{self.penalty:g}"

    @classmethod
    def of(cls, name: str) -> Pair:
        """The pair of this name; raises InputError where it is none."""
        k, _, penalty = name.removeprefix("k").partition("-l")
        try:
            return cls(int(k), float(penalty))
        except ValueError:
            raise InputError(f"--pairs {name}: K and λ are expected, as k500-l4500") from None


def published_points() -> list[dict[str, float]]:
    """``k``, ``lambda``, ``bitrate`` (bit/s) and ``wer_median`` (share) of the 24 pairs in DP-SLM's figure."""
    text = resources.files("speechdlm_ext.evaluation").joinpath("assets/dpslm_bitrate_wer.csv").read_text("utf-8")
    return [
        {
            "k": int(row["K"]),
            "lambda": float(row["lambda"]),
            "bitrate": float(row["bitrate_bps_svg"] or row["bitrate_bps_readme"]),
            "wer_median": float(row["median_wer_pct_svg"]) / 100,
        }
        for row in csv.DictReader(text.splitlines())
    ]


def word_segments(
    rows: Iterable[Mapping[str, Any]], units: Mapping[str, Sequence[int]], frame_rate: float
) -> tuple[list[str], list[list[int]]]:
    """The words of rows that have ``words``, ``[text, start, end]`` in seconds each, and the units of each.

    Words shorter than ``SHORTEST_WORD`` are skipped.

    Raises:
        InputError: a word lies beyond its recording.
    """
    words, segments = [], []
    for row in rows:
        own = units[row["id"]]
        for text, start, end in row.get("words", ()):
            first, last = round(start * frame_rate), round(end * frame_rate)
            if not 0 <= start < end or last > len(own) + 1:
                raise InputError(f"{row['id']}: the word {text!r} from {start:g} to {end:g} s is not in the recording")
            if end - start >= SHORTEST_WORD:
                words.append(str(text).lower())
                segments.append(list(own[first:last]))
    return words, segments


def check_texts(rows: Iterable[Mapping[str, Any]], manifest: str | os.PathLike[str]) -> None:
    """Raise InputError where a row has no ``text``."""
    for row in rows:
        if not str(row.get("text") or "").strip():
            raise InputError(f"{manifest}: {row['id']} has no text, with which what is recognised could be compared")


def abx_error(
    item_file: str | os.PathLike[str], folder: Path, units: Mapping[str, Sequence[int]], frame_rate: float
) -> float:
    """ABX error of units on the triphones of an item file, within speakers, by fastabx (Poli et al. 2025).

    Args:
        item_file: of ZeroSpeech, which names recordings by their ids.
        folder: for the units, a file for each recording.
        units: by id, one for each frame.
        frame_rate: Hz.

    Raises:
        InputError: fastabx is not installed.
    """
    require_fastabx()
    import torch
    from fastabx import zerospeech_abx

    folder.mkdir(parents=True, exist_ok=True)
    for name, own in units.items():
        torch.save(torch.tensor(own).unsqueeze(1), folder / f"{name}.pt")
    # Groups of 10 at most, as in the ZeroSpeech challenge of 2021.
    options = {"max_size_group": 10, "speaker": "within", "distance": "identical", "frequency": f"{frame_rate:g}"}
    return float(zerospeech_abx(item_file, folder, **options))


def require_fastabx() -> None:
    """Raise InputError where fastabx is not installed."""
    from importlib.util import find_spec

    if find_spec("fastabx") is None:
        raise InputError("--abx needs fastabx and Python 3.12 or later: pip install 'speechdlm_ext[abx]'")


def kept_figures(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The figures in a file, if they are there and were made with these settings."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept["figures"] if kept.get("settings") == json.loads(json.dumps(settings)) else None


def keep_figures(path: Path, settings: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """Write figures for :func:`kept_figures`."""
    with atomic_write(path) as file:
        json.dump({"settings": settings, "figures": figures}, file, indent=1)


def write_table(path: str | os.PathLike[str], figures: Iterable[Mapping[str, Any]]) -> None:
    """Write figures as CSV, a row for each pair; bitrates in bit/s, error rates as shares."""
    with atomic_write(path) as file:
        table = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(figures)


def draw(
    path: str | os.PathLike[str], figures: Sequence[Mapping[str, Any]], published: bool = True, corpus: bool = False
) -> None:
    """Draw error rate against bitrate in the layout of DP-SLM's figure: a line for each K, a point for each λ.

    Args:
        path: PNG, SVG or PDF.
        figures: as :func:`write_table` takes them.
        published: whether the published points are shown, in grey, behind.
        corpus: the error rate of the corpus in place of the median over utterances.

    Raises:
        InputError: matplotlib is missing, or cannot write such a file.
    """
    with optional_import("figures need matplotlib", "eval"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    panel = figure.subplots()
    which = "wer" if corpus else "wer_median"
    markers = dict(zip((100, 200, 500, 1000), "osD^", strict=True))
    for points, style in ((published_points() if published else [], True), (figures, False)):
        for k in sorted({int(point["k"]) for point in points}):
            own = sorted((point for point in points if point["k"] == k), key=lambda point: point["bitrate"])
            panel.plot(
                [point["bitrate"] for point in own],
                [100 * point["wer_median" if style else which] for point in own],
                marker=markers.get(k, "v"),
                color="0.75" if style else None,
                label=f"K = {k}" + (", published" if style else ""),
                linewidth=1,
                markersize=4,
                zorder=1 if style else 2,
            )
    panel.set_xlabel("Bitrate (bit/s)")
    panel.set_ylabel("WER of the corpus (%)" if corpus else "Median WER (%)")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7)
    kind = Path(path).suffix.removeprefix(".") or "png"
    try:
        with atomic_write(path, "wb") as file:
            figure.savefig(file, format=kind)
    except ValueError:
        raise InputError(f"{path}: a name that ends in .png, .svg or .pdf is expected") from None
