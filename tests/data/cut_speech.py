"""Cut the recordings in ``speech/`` out of the folder that README.md describes: ``cut_speech.py SOURCE [TARGET]``."""

from __future__ import annotations

import sys
from pathlib import Path

import soundfile

# File, first and last second (None: whole), and opus's compression (0 to 1); None keeps FLAC, sample for sample.
CUTS = (
    ("calls/google_two_channel", None, None),
    ("calls/auto_repairs_40", (0, 60), 0.94),
    ("calls/azure_katiesteve", None, 0.92),
    ("jfk/jfk", None, None),
    ("ljspeech/LJ001-0002", None, None),
    ("ljspeech/LJ001-0008", None, None),
    ("ami/trn00", None, 0.92),
    ("ami/tst00", None, 0.92),
    ("fsdd_strings/george_09", None, 0.9),
    ("fsdd_strings/lucas_02", None, 0.9),
    *(
        (f"librispeech_test_other/{name}", None, 0.9)
        for name in (
            "1998-15444-0007",
            "1998-15444-0008",
            "2033-164914-0004",
            "2033-164914-0005",
            "2609-156975-0000",
            "2609-156975-0003",
            "3331-159605-0001",
            "3331-159605-0004",
            "533-1066-0000",
            "533-1066-0006",
        )
    ),
)


def main(source: Path, target: Path) -> None:
    for name, seconds, compression in CUTS:
        wave, rate = soundfile.read(source / f"{name}.flac", dtype="int16")
        if seconds:
            wave = wave[round(seconds[0] * rate) : round(seconds[1] * rate)]
        place = target / f"{name}.{'flac' if compression is None else 'ogg'}"
        place.parent.mkdir(parents=True, exist_ok=True)
        if compression is None:
            soundfile.write(place, wave, rate, format="FLAC", compression_level=1.0)
        else:
            soundfile.write(place, wave, rate, format="OGG", subtype="OPUS", compression_level=compression)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent / "speech")
