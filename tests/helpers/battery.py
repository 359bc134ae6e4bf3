"""The battery's commands, each run once and on demand: real processes on a corpus made to be learnt in seconds."""

from __future__ import annotations

import fcntl
import json
import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, TypeAlias

from tests.helpers.processes import free_port

Process: TypeAlias = "CompletedProcess[str]"


def _words(text: str) -> list[str]:
    return text.split()


EPOCHS = 3
TEST_LINES = 12
SIZES = _words("--encoder-layers 1 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 2")
DECODER = _words("--decoder-layers 1 --decoder-embed-dim 16 --decoder-ffn-embed-dim 32 --decoder-attention-heads 2")
OPTIMIZER = _words("--optimizer adam --lr 0.01 --max-tokens 256 --cpu --log-format json --num-workers 0")
TRANSLATION = ["--arch", "transformer", *SIZES, *DECODER, *OPTIMIZER]
LANGUAGE_MODEL = [
    *_words("--task language_modeling --arch transformer_lm --tokens-per-sample 32 --sample-break-mode eos"),
    *DECODER,
    *OPTIMIZER,
]
HYDRA = (
    "task=language_modeling task.tokens_per_sample=32 task.sample_break_mode=eos model=transformer_lm "
    "model.decoder_layers=1 model.decoder_embed_dim=16 model.decoder_input_dim=16 model.decoder_output_dim=16 "
    "model.decoder_ffn_embed_dim=32 model.decoder_attention_heads=2 common.cpu=true common.log_format=json "
    "criterion=cross_entropy optimizer=adam optimization.lr=[0.01] "
    f"optimization.max_epoch={EPOCHS} lr_scheduler=fixed dataset.max_tokens=256 dataset.num_workers=0"
).split()


@dataclass(frozen=True)
class Done:
    """A command that has ended: its folder, status and output."""

    folder: Path
    process: Process

    @property
    def output(self) -> str:
        return self.process.stdout + self.process.stderr

    def logged(self, tag: str) -> list[dict[str, Any]]:
        """What a command logged as JSON under "train" or "valid", in order."""
        rows = re.findall(rf"(?:\| {tag} \||\[{tag}\]\[INFO\] -) (\{{.*\}})", self.output)
        return [json.loads(row) for row in rows]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Held by one thread at a time, of whatever process."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Battery:
    """Runs each step once, whoever asks first; two at a time when it is told to run ahead.

    Several processes may share a folder: what one has run, the others read. ``run_command`` starts a command as a user
    does; ``run_loaded`` runs it in a fork of a process that has fairseq loaded, which takes a fraction of the time.
    """

    def __init__(
        self,
        run_command: Callable[..., Process],
        run_loaded: Callable[..., Process],
        folder: Path,
        user_dir: Path,
    ) -> None:
        self.run_command = run_command
        self.run_loaded = run_loaded
        self.folder = folder
        self.user_dir = user_dir
        self._results: dict[tuple[str, bool], Done | BaseException] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._stopped = False
        with _locked(folder / "corpus.lock"):
            if not (folder / "corpus.done").exists():
                write_corpus(folder)
                (folder / "corpus.done").touch()

    def get(self, step: str, user_dir: bool = False) -> Done:
        """The result of a step, which is run now if nobody has; a failure is raised for everyone who asks here."""
        key = (step, user_dir)
        name = _name(step, user_dir)
        with _locked(self.folder / f"{name}.lock"):
            if key not in self._results:
                try:
                    self._results[key] = self._find(name) or STEPS[step](self, user_dir)
                except BaseException as error:  # pytest's own failures are no Exceptions
                    self._results[key] = error
        result = self._results[key]
        if isinstance(result, BaseException):
            raise result
        return result

    def _find(self, name: str) -> Done | None:
        path = self.folder / f"{name}.json"
        if not path.exists():
            return None
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Done(self.folder / name, CompletedProcess(**kept))

    def run_ahead(self, apart: bool) -> None:
        """Start every step, two at a time; ``apart``: also those that only `make test-long` asks for."""
        self._pool = ThreadPoolExecutor(2)
        for step in STEPS:
            for user_dir in (False,) if step in ONCE else (False, True):
                if apart or user_dir or step not in APART:
                    self._pool.submit(self._try, step, user_dir)

    def _try(self, step: str, user_dir: bool) -> None:
        if not self._stopped:
            try:
                self.get(step, user_dir)
            except BaseException:
                pass  # kept for those who ask

    def close(self) -> None:
        self._stopped = True
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def make(self, step: str, user_dir: bool, *arguments: str | Path, ranks: int = 1, **options: Any) -> Done:
        """Run a command in a folder of its own, ``{folder}`` in arguments, on one rank or as torchrun starts more."""
        name = _name(step, user_dir)
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        words = [str(argument).replace("{folder}", str(folder)) for argument in arguments]
        if user_dir and "fairseq-hydra-train" in words:
            words.append(f"common.user_dir={self.user_dir}")
        elif user_dir:
            words += ["--user-dir", str(self.user_dir)]
        loaded = (user_dir or step not in AS_USERS) and words[0].startswith("fairseq-")
        run = self.run_loaded if loaded else self.run_command
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}

        def start(rank: int) -> Process:
            where = {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
            return run(words, cwd=folder, env={"OMP_NUM_THREADS": "1", **where}, timeout=600, **options)

        with ThreadPoolExecutor(ranks) as pool:
            process, *_ = pool.map(start, range(ranks))
        kept = {"args": words, "returncode": process.returncode, "stdout": process.stdout, "stderr": process.stderr}
        (self.folder / f"{name}.json").write_text(json.dumps(kept), encoding="utf-8")
        return Done(folder, process)


def _name(step: str, user_dir: bool) -> str:
    return f"{step}{'-user-dir' if user_dir else ''}"


def write_corpus(folder: Path) -> None:
    """Lines of digits, and the same backwards as their translation."""
    chance = random.Random(1)
    for split, lines in (("train", 120), ("valid", 20), ("test", TEST_LINES)):
        rows = [[str(chance.randrange(8)) for _ in range(chance.randint(4, 10))] for _ in range(lines)]
        (folder / f"{split}.src").write_text("".join(" ".join(row) + "\n" for row in rows))
        (folder / f"{split}.tgt").write_text("".join(" ".join(row[::-1]) + "\n" for row in rows))


def _preprocess(battery: Battery, user_dir: bool) -> Done:
    splits = [word for split in ("train", "valid", "test") for word in (f"--{split}pref", battery.folder / split)]
    pair = ["--source-lang", "src", "--target-lang", "tgt"]
    return battery.make("preprocess", user_dir, "fairseq-preprocess", *pair, *splits, "--destdir", "{folder}")


def _preprocess_lm(battery: Battery, user_dir: bool) -> Done:
    splits = [
        word for split in ("train", "valid", "test") for word in (f"--{split}pref", battery.folder / f"{split}.src")
    ]
    return battery.make(
        "preprocess_lm", user_dir, "fairseq-preprocess", "--only-source", *splits, "--destdir", "{folder}"
    )


def _data(battery: Battery, step: str = "preprocess") -> Path:
    return battery.get(step).folder


def _train(step: str, *options: str, check: bool = True) -> Callable[[Battery, bool], Done]:
    def run(battery: Battery, user_dir: bool) -> Done:
        words = ["fairseq-train", str(_data(battery)), *TRANSLATION, "--save-dir", "{folder}/checkpoints", *options]
        return battery.make(step, user_dir, *words, check=check)

    return run


def _resume(battery: Battery, user_dir: bool) -> Done:
    folder = battery.get("train_one_epoch", user_dir).folder
    words = ["fairseq-train", _data(battery), *TRANSLATION, "--save-dir", folder / "checkpoints"]
    return battery.make("resume", user_dir, *words, "--max-epoch", str(EPOCHS))


def _with_model(step: str, command: str, *options: str) -> Callable[[Battery, bool], Done]:
    def run(battery: Battery, user_dir: bool) -> Done:
        checkpoint = battery.get("train").folder / "checkpoints" / "checkpoint_last.pt"
        extra: dict[str, Any] = {}
        if command == "fairseq-interactive":
            extra["input"] = (battery.folder / "test.src").read_text()
        words = [command, _data(battery), "--path", checkpoint, "--cpu", *options]
        return battery.make(step, user_dir, *words, **extra)

    return run


def _train_lm(battery: Battery, user_dir: bool) -> Done:
    words = ["fairseq-train", _data(battery, "preprocess_lm"), *LANGUAGE_MODEL, "--max-epoch", str(EPOCHS)]
    return battery.make("train_lm", user_dir, *words, "--save-dir", "{folder}/checkpoints")


def _eval_lm(battery: Battery, user_dir: bool) -> Done:
    checkpoint = battery.get("train_lm").folder / "checkpoints" / "checkpoint_last.pt"
    words = ["fairseq-eval-lm", _data(battery, "preprocess_lm"), "--path", checkpoint, "--cpu", "--gen-subset", "valid"]
    return battery.make("eval_lm", user_dir, *words, "--tokens-per-sample", "32", "--sample-break-mode", "eos")


def _hydra(battery: Battery, user_dir: bool) -> Done:
    words = ["fairseq-hydra-train", *HYDRA, f"task.data={_data(battery, 'preprocess_lm')}"]
    return battery.make("hydra", user_dir, *words, "checkpoint.save_dir={folder}/checkpoints", "hydra.run.dir={folder}")


def _multirun(battery: Battery, user_dir: bool) -> Done:
    words = ["fairseq-hydra-train", "--multirun", *HYDRA, f"task.data={_data(battery, 'preprocess_lm')}"]
    sweep = ["common.seed=1,2", "checkpoint.save_dir=checkpoints", "hydra.sweep.dir={folder}"]
    return battery.make("multirun", user_dir, *words, *sweep)


def _two_ranks(step: str, folder_of: str, epochs: int) -> Callable[[Battery, bool], Done]:
    def run(battery: Battery, user_dir: bool) -> Done:
        save_dir = "{folder}/checkpoints"
        if folder_of != step:
            save_dir = str(battery.get(folder_of, user_dir).folder / "checkpoints")
        words = [_data(battery), *TRANSLATION, "--save-dir", save_dir, "--max-epoch", str(epochs)]
        if user_dir and step != "two_ranks":  # torchrun itself is a start of three more processes
            return battery.make(step, user_dir, "fairseq-train", *words, ranks=2)
        launcher = ["torchrun", "--nproc_per_node", "2", "--master_port", str(free_port()), "-m", "fairseq_cli.train"]
        return battery.make(step, user_dir, *launcher, *words)

    return run


def _score(battery: Battery, user_dir: bool) -> Done:
    folder = battery.folder
    (folder / "score.ref").write_text("1 2 3 4 5\n")
    (folder / "score.sys").write_text("1 2 3 4 6\n")
    return battery.make("score", False, "fairseq-score", "--sys", folder / "score.sys", "--ref", folder / "score.ref")


_ALL_EPOCHS = ("--max-epoch", str(EPOCHS))
STEPS: dict[str, Callable[[Battery, bool], Done]] = {
    "preprocess": _preprocess,
    "preprocess_lm": _preprocess_lm,
    "train": _train("train", *_ALL_EPOCHS, "--tensorboard-logdir", "{folder}/tensorboard"),
    "train_one_epoch": _train("train_one_epoch", "--max-epoch", "1"),
    "resume": _resume,
    "validate": _with_model(
        "validate", *_words("fairseq-validate --task translation --max-tokens 256 --log-format json")
    ),
    "generate": _with_model("generate", *_words("fairseq-generate --beam 3 --max-len-b 12")),
    "sample": _with_model(
        "sample", *_words("fairseq-generate --beam 1 --max-len-b 12 --sampling --sampling-topk 5 --seed 7")
    ),
    "interactive": _with_model(
        "interactive", *_words("fairseq-interactive --beam 3 --max-len-b 12 --buffer-size 20 --batch-size 20")
    ),
    "train_lm": _train_lm,
    "eval_lm": _eval_lm,
    "hydra": _hydra,
    "multirun": _multirun,
    "two_ranks": _two_ranks("two_ranks", "two_ranks", 2),
    "two_ranks_one_epoch": _two_ranks("two_ranks_one_epoch", "two_ranks_one_epoch", 1),
    "two_ranks_resume": _two_ranks("two_ranks_resume", "two_ranks_one_epoch", 2),
    "score": _score,
    "activations": _train("activations", *_ALL_EPOCHS, "--checkpoint-activations"),
    "amp": _train("amp", *_ALL_EPOCHS, "--amp"),
    "bf16": _train("bf16", *_ALL_EPOCHS, "--bf16"),
    "fp16": _train("fp16", *_ALL_EPOCHS, "--fp16", check=False),
    "fully_sharded": _train("fully_sharded", *_ALL_EPOCHS, "--ddp-backend", "fully_sharded", check=False),
}
# Without --user-dir these are variations that take long.
APART = frozenset(("train_one_epoch", "resume", "multirun", "two_ranks", "two_ranks_one_epoch", "two_ranks_resume"))
# What is started as a user starts it: a command of each kind.
AS_USERS = frozenset(("train", "generate", "hydra", "score", "fp16", "two_ranks"))
ONCE = frozenset(("score", "activations", "amp", "bf16", "fp16", "fully_sharded"))
