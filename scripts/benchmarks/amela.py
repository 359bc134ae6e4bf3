"""AMELA's loops as its README and the libraries that it names describe them: one file at a time, each after the other.

Run as ``python amela.py detect|resynthesize|transcribe JSON``, in the environment of the benchmark, so that both sides
have the same libraries and models.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any


def detect(files: list[str], output: str) -> None:
    """ten-vad frame by frame through its package, and the statistics of runs of equal decisions."""
    import numpy as np
    import soundfile
    from ten_vad import TenVad

    with open(output, "w", newline="") as table:
        writer = csv.writer(table)
        for path in files:
            samples, rate = soundfile.read(path, dtype="int16")
            vad, flags = TenVad(256, 0.5), []
            for start in range(0, len(samples) - 255, 256):
                flags.append(vad.process(samples[start : start + 256])[1])
            changes = np.flatnonzero(np.diff(flags)) + 1
            runs = {0: [0.0], 1: [0.0]}
            for part in np.split(np.array(flags), changes):
                runs[int(part[0])].append(len(part) * 256 / rate)
            spoken = [(max(run), min(run), sum(run) / len(run)) for run in (runs[1], runs[0])]
            writer.writerow([path, len(samples) / rate, *spoken[0], *spoken[1], np.mean(flags)])


def resynthesize(files: list[str], output: str, encoder: str, centers: str, vocoder: str, layer: int, f0: bool) -> None:
    """textlesslib: HuBERT, k-means of scikit-learn, pitch by pYAAPT, and its CodeHiFiGAN, without durations."""
    from types import SimpleNamespace

    import numpy as np
    import soundfile
    import torch
    from fairseq.data import Dictionary
    from fairseq.models.hubert.hubert import HubertConfig, HubertModel
    from fairseq.models.text_to_speech.codehifigan import CodeGenerator
    from sklearn.cluster import KMeans

    state = torch.load(encoder, weights_only=True)
    options = {name: value for name, value in state["cfg"]["model"].items() if name != "_name"}
    model = HubertModel(HubertConfig(label_rate=50.0, **options), SimpleNamespace(sample_rate=16000), [Dictionary()])
    model.load_state_dict(state["model"])
    model.eval()
    centroids = np.load(centers)
    kmeans = KMeans(len(centroids), n_init=1, max_iter=1).fit(centroids)
    kmeans.cluster_centers_ = centroids
    generator = CodeGenerator(json.loads(Path(vocoder, "config.json").read_text()))
    generator.load_state_dict(torch.load(Path(vocoder, "generator.pt"), weights_only=True)["generator"])
    generator.eval().remove_weight_norm()
    Path(output).mkdir(exist_ok=True)
    with torch.no_grad():
        for path in files:
            wave = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
            parts = wave[None].split(100 * 16000, 1)
            found = [model.extract_features(source=part, mask=False, output_layer=layer)[0][0] for part in parts]
            units = torch.from_numpy(kmeans.predict(torch.cat(found).numpy())).long()
            if f0:
                _pitch(wave.numpy())
            units = torch.unique_consecutive(units)
            sound = generator(code=units[None])[0, 0]
            soundfile.write(Path(output, Path(path).name), sound.numpy(), 16000)


def _pitch(wave: Any) -> Any:
    """As textlesslib computes it for each file by default, whether it is needed or not."""
    import amfm_decompy.basic_tools as basic
    import amfm_decompy.pYAAPT as pYAAPT
    import numpy as np

    signal = basic.SignalObj(np.pad(wave * 32768, 80).astype(np.float64), 16000)
    options = {"frame_length": 20.0, "frame_space": 5.0, "nccf_thresh1": 0.25, "tda_frame_length": 25.0}
    return pYAAPT.yaapt(signal, **options).samp_values


def transcribe(files: list[str], output: str, asr: str, batch: int) -> None:
    """Batches of so many files in the order of the manifest, and all results at the end, as one file of the task."""
    import soundfile
    import torch

    from speechdlm_ext.asr import RecogniserOptions, build_recogniser

    recogniser = build_recogniser(RecogniserOptions(asr, device="cpu"))
    texts = []
    for start in range(0, len(files), batch):
        waves = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in files[start : start + batch]]
        padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
        texts += [found.text for found in recogniser.transcribe(padded, [len(wave) for wave in waves])]
    Path(output).write_text(json.dumps(dict(zip(files, texts, strict=True))))


if __name__ == "__main__":
    loops: dict[str, Any] = {"detect": detect, "resynthesize": resynthesize, "transcribe": transcribe}
    loops[sys.argv[1]](**json.loads(sys.argv[2]))
