"""The demo's commands, from raw audio to sound, with the settings of each and the time that it takes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from speechdlm_ext.demo.commands import PACKAGE, fairseq, module, python, shown
from speechdlm_ext.demo.options import DemoOptions, list_recordings
from speechdlm_ext.demo.steps import Step
from speechdlm_ext.io.manifest import read_jsonl

SPLITS = ("train", "valid")


@dataclass(frozen=True)
class Chain:
    """Where everything lies, and the steps that make it. Paths are as the user gave them, so that commands can be
    pasted where the demo was started."""

    options: DemoOptions

    @property
    def out(self) -> Path:
        """The demo's folder."""
        return self.options.out

    @property
    def corpus(self) -> Path:
        """Recordings and their manifest."""
        return self.out / "corpus"

    @property
    def manifest(self) -> Path:
        """One line a recording."""
        return self.corpus / "manifest.jsonl"

    @property
    def codebook(self) -> Path:
        """Centroids of the units."""
        return self.out / "codebook.safetensors"

    @property
    def units(self) -> Path:
        """Units of every recording."""
        return self.out / "units.jsonl"

    @property
    def split(self) -> Path:
        """Training and validation segments."""
        return self.out / "split"

    @property
    def data(self) -> Path:
        """What fairseq-preprocess writes."""
        return self.out / "data-bin"

    @property
    def checkpoints(self) -> Path:
        """Of the model."""
        return self.out / "checkpoints"

    @property
    def prompts(self) -> Path:
        """Held-out beginnings."""
        return self.out / "prompts.jsonl"

    @property
    def continued(self) -> Path:
        """Prompts with what the model goes on with."""
        return self.out / "samples.jsonl"

    @property
    def sound(self) -> Path:
        """Samples as stereo files."""
        return self.out / "samples"

    def log(self, name: str) -> Path:
        """What the command of a step prints; of training and validation it is a result, read by the report."""
        return self.out / "logs" / f"{name}.log"

    def corpus_step(self) -> Step:
        """Made conversations, or a manifest of the user's own."""
        options = self.options
        if options.audio is None:
            command = [*python("data_prep/make_dialogues.py"), str(self.corpus), "--minutes", f"{options.minutes:g}"]
            command += ["--voices", "2", "--seed", str(options.seed)]
            return Step(
                "1-corpus", "Make two-channel conversations", command, [self.corpus], 10 + options.minutes, resumes=True
            )
        command = [*python("data_prep/make_manifest.py"), str(options.audio), str(self.manifest)]
        command += ["--channels", "2", "--min-seconds", "2"]
        depends = {"recordings": list_recordings(options.audio)}
        return Step("1-corpus", "List your recordings", command, [self.corpus], 5, depends=depends)

    def unit_steps(self) -> list[Step]:
        """Codebook, units, and the split into training and validation."""
        options = self.options
        minutes = sum(row["duration"] for row in read_jsonl(self.manifest)) / 60
        # Silence gets few units of its own: noise 30 dB below the speech no longer makes a difference.
        encoder = ["--encoder", "logmel", "--encoder-options", json.dumps({"floor_db": -30})]
        # A few minutes of real speech are too little to learn from as they are.
        speeds = ["--speeds", "0.9", "1.1"] if options.audio is not None and minutes < 20 else []
        return [
            Step(
                "2-codebook",
                f"Learn {options.units} units from log-mel frames",
                [*python("data_prep/train_codebook.py"), str(self.manifest), str(self.codebook), *encoder]
                + ["--units", str(options.units), "--seed", str(options.seed)],
                [self.codebook],
                12 + 0.3 * minutes,
            ),
            Step(
                "3-units",
                "Encode both channels as units",
                [*python("data_prep/encode_units.py"), str(self.manifest), str(self.units)]
                + ["--codebook", str(self.codebook), *speeds],
                [self.units, partial(self.units)],
                5 + 0.3 * minutes * (1 + len(speeds[1:])),
                resumes=True,
            ),
            Step(
                "4-split",
                "Hold out recordings, cut all into segments",
                [
                    *python("data_prep/split_units.py"),
                    str(self.units),
                    str(self.split),
                    "--valid",
                    str(options.held_out),
                ]
                + ["--segment-seconds", f"{options.segment_seconds:g}", "--seed", str(options.seed)],
                [self.split],
                1,
            ),
        ]

    def binarize_steps(self) -> list[Step]:
        """``fairseq-preprocess`` for each channel, with one dictionary."""
        steps = []
        for channel in ("unitA", "unitB"):
            command = [fairseq("fairseq-preprocess"), "--source-lang", channel, "--only-source"]
            command += ["--srcdict", str(self.split / "dict.txt")]
            command += ["--trainpref", str(self.split / "train"), "--validpref", str(self.split / "valid")]
            makes = [
                self.data / f"{name}.{channel}-None.{channel}.{kind}" for name in SPLITS for kind in ("bin", "idx")
            ]
            steps.append(
                Step(
                    f"5-binarize-{channel}",
                    f"Binarize {channel}",
                    [*command, "--destdir", str(self.data)],
                    [*makes, self.data / f"dict.{channel}.txt"],
                    6,
                )
            )
        return steps

    def train_step(self) -> Step:
        """``fairseq-train``: a small SpeechDLM, the published recipe cut down to minutes of audio and of computing.

        What differs from the published recipe keeps a model that sees minutes instead of 2000 hours from learning them
        by heart: strong weight decay, and no positions, by which it would remember where in a segment things were
        said. Output weights of their own learn which unit follows which within fewer updates than shared ones.
        Durations, whose loss is noisy, count less.
        """
        updates = self.options.updates
        model = ["--arch", "speech_dlm", "--decoder-layers", "4", "--decoder-cross-layers", "2"]
        model += ["--decoder-embed-dim", "128", "--decoder-ffn-embed-dim", "512", "--decoder-attention-heads", "2"]
        model += ["--no-token-positional-embeddings", "--dropout", "0.3", "--attention-dropout", "0"]
        task = ["--task", "speech_dlm_task", "--channels", "unitA,unitB"]
        task += ["--next-unit-prediction", "False", "--edge-unit-prediction", "True"]
        task += ["--duration-prediction", "True", "--delayed-duration-target", "True"]
        task += ["--tokens-per-sample", str(self.options.segment_frames + 1), "--sample-break-mode", "eos"]
        task += ["--criterion", "speech_dlm_criterion", "--duration-loss-weight", "0.2"]
        optimizer = ["--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--clip-norm", "1.0"]
        optimizer += ["--weight-decay", "2.0"]
        optimizer += ["--lr", "0.003", "--lr-scheduler", "polynomial_decay", "--total-num-update", str(updates)]
        optimizer += ["--warmup-updates", str(min(60, max(1, updates // 5)))]
        optimizer += ["--max-tokens", "1600", "--max-update", str(updates)]
        saving = ["--save-dir", str(self.checkpoints), "--tensorboard-logdir", str(self.checkpoints / "tensorboard")]
        saving += ["--save-interval-updates", str(self.options.save_interval), "--keep-interval-updates", "1"]
        saving += ["--validate-interval-updates", str(self.options.save_interval)]
        saving += ["--no-epoch-checkpoints", "--save-interval", "1000000", "--validate-interval", "1000000"]
        saving += ["--best-checkpoint-metric", "edge_token_loss"]
        other = [
            "--log-format",
            "json",
            "--log-interval",
            str(max(1, min(10, updates // 8))),
            "--num-workers",
            "0",
            "--cpu",
        ]
        other += ["--seed", str(self.options.seed)]
        return Step(
            "6-train",
            f"Train a SpeechDLM for {updates} updates",
            [fairseq("fairseq-train"), str(self.data), "--user-dir", shown(PACKAGE)]
            + [*task, *model, *optimizer, *saving, *other],
            [self.checkpoints, self.log("6-train")],
            15 + 0.45 * updates,
            resumes=True,
        )

    def validate_step(self) -> Step:
        """``fairseq-validate`` on the held-out segments."""
        command = [fairseq("fairseq-validate"), str(self.data), "--user-dir", shown(PACKAGE)]
        command += ["--task", "speech_dlm_task", "--path", str(self.checkpoints / "checkpoint_best.pt")]
        command += ["--max-tokens", "6144", "--num-workers", "0", "--cpu", "--log-format", "json"]
        return Step("7-validate", "Validate on what was held out", command, [self.log("7-validate")], 10)

    def prompt_step(self) -> Step:
        """Held-out beginnings."""
        options = self.options
        command = [*module("speechdlm_ext.demo.prompts"), str(self.split / "valid.jsonl"), str(self.prompts)]
        command += ["--count", str(options.prompts)]
        command += ["--prompt-frames", str(round(options.prompt_seconds * options.frame_rate))]
        command += ["--total-frames", str(options.segment_frames)]
        return Step("8-prompts", "Choose held-out beginnings as prompts", command, [self.prompts], 1)

    @property
    def samples(self) -> int:
        """Continuations of each prompt: more than were asked for where there are fewer prompts than were asked for, so
        that the figures are of as much generated speech."""
        options = self.options
        found = len(read_jsonl(self.prompts)) if self.prompts.exists() else options.prompts
        return math.ceil(options.prompts * options.samples / found)

    def sample_steps(self) -> list[Step]:
        """The prompts' continuations, and all as sound; the prompts must be there."""
        options = self.options
        sampling = ["--sampling-topp", "0.9", "--beam", "1", "--samples", str(self.samples)]
        sampling += ["--max-len-b", str(options.segment_frames), "--seed", str(options.seed), "--device", "cpu"]
        return [
            Step(
                "9-sample",
                f"Continue each prompt {self.samples} times",
                [*python("scripts/sample_speech_dlm.py"), "--in-file", str(self.prompts)]
                + ["--out-file", str(self.continued), "--ckpt", str(self.checkpoints / "checkpoint_best.pt")]
                + ["--data", str(self.data), *sampling],
                [self.continued, partial(self.continued)],
                10 + 3 * options.prompts * options.samples,
            ),
            Step(
                "10-synthesize",
                "Turn units into sound",
                [*python("scripts/synthesize.py"), str(self.continued), str(self.sound)]
                + ["--codebook", str(self.codebook), "--seed", str(options.seed), "--duplicated"],
                [self.sound],
                5 + options.prompts * options.samples,
            ),
        ]

    def report_step(self) -> Step:
        """The page."""
        page = self.out / "report.html"
        command = [*module("speechdlm_ext.demo.report"), str(self.out), str(page)]
        return Step("11-report", "Write the report", command, [page], 10)


def partial(path: Path) -> Path:
    """Where a command keeps what it has done so far of ``path``."""
    return path.with_name(path.name + ".partial")
