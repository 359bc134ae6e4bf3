"""One side of a comparison: a process that does one measured piece of work for each line that it reads.

It runs in the environment of the public code and in ours alike, so it uses nothing but what both have: fairseq's
options, tasks and trainer, and `SpeechDLM.from_pretrained(…).sample(…)`. Answers are JSON lines.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO


def main() -> None:
    """Set up as the first line of standard input says, say so, and answer each further line with one more round.

    The first line is JSON, see the functions below; as an argument it could be too long.
    """
    settings = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what fairseq prints must not get between the answers
    import torch

    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    for name in settings["imports"]:
        importlib.import_module(name)
    kinds = {
        "train": training,
        "score": training,
        "sample": sampling,
        "unit": with_units,
        "asr": with_sound,
        "llm": with_llm,
    }
    work = kinds[settings["work"].split("-")[0]](settings)
    about = {"torch": torch.__version__, "threads": torch.get_num_threads(), "memory": peak_memory(settings)}
    if settings["work"] == "train":
        about |= {"flops": counted_flops(work), "peak": peak_tflops(settings)}
    _answer(answers, {"ready": True, **about})
    for _ in sys.stdin:
        _answer(answers, work())


def training(settings: dict[str, Any]) -> Callable[[], dict[str, float]]:
    """A step of fairseq's trainer: forward, backward, clipping, Adam; or, with ``epoch``, one with each batch.

    With the work ``score`` it is a validation step.

    Settings: ``options`` of fairseq-train, and ``weights``, a file of tensors to begin with (or its own random ones).
    """
    trainer, batches = _trainer(settings)
    position, steps = 0, len(batches) if settings.get("epoch") else 1

    def step() -> dict[str, float]:
        nonlocal position
        chosen = [batches[(position + more) % len(batches)] for more in range(steps)]
        position += steps
        wait(settings)
        start = time.perf_counter()
        for batch in chosen:
            logs = trainer.valid_step(batch) if settings["work"] == "score" else trainer.train_step([batch])
        wait(settings)
        seconds = time.perf_counter() - start
        loss = float(logs["loss"]) if logs else float("nan")
        units = sum(batch["ntokens"] for batch in chosen)
        return {"seconds": seconds, "loss": loss, "units": units, "memory": peak_memory(settings)}

    return step


def sampling(settings: dict[str, Any]) -> Callable[[], dict[str, float]]:
    """Continue a batch of prompts by the interface for users.

    Settings: as for training; ``prompts``, dictionaries of units; ``sample``, what is asked of ``sample()``; ``dtype``.
    """
    model = _dialogue_model(settings)

    def sample() -> dict[str, float]:
        wait(settings)
        start = time.perf_counter()
        found = model.sample(settings["prompts"], **settings["sample"])
        wait(settings)
        seconds = time.perf_counter() - start
        frames = [len(next(iter(dialogue.values())).split()) for dialogue in found]
        before = [len(next(iter(prompt.values())).split()) for prompt in settings["prompts"]]
        return {"seconds": seconds, "frames": sum(frames) - sum(before), "memory": peak_memory(settings)}

    return sample


def with_units(settings: dict[str, Any]) -> Callable[[], dict[str, float]]:
    """Unit language models, in an environment that has ours: ``unit-sample`` or ``unit-score``."""
    unit_work = importlib.import_module("unit_work")
    kinds = {"sample": unit_work.sampling, "score": unit_work.scoring}
    work: Callable[[], dict[str, float]] = kinds[settings["work"].split("-")[1]](settings)
    return work


def with_sound(settings: dict[str, Any]) -> Callable[[], dict[str, float]]:
    """Recognisers of speech, NeMo's and ours: ``asr-train`` or ``asr-transcribe``."""
    asr_work = importlib.import_module("asr_work")
    kinds = {"train": asr_work.training, "transcribe": asr_work.transcribing}
    work: Callable[[], dict[str, float]] = kinds[settings["work"].split("-")[1]](settings)
    return work


def with_llm(settings: dict[str, Any]) -> Callable[[], dict[str, float]]:
    """Speech-text and duplex models, NeMo's and ours: ``llm-train`` or ``llm-generate``."""
    llm_work = importlib.import_module("llm_work")
    kinds = {"train": llm_work.training, "generate": llm_work.generating}
    work: Callable[[], dict[str, float]] = kinds[settings["work"].split("-")[1]](settings)
    return work


def _dialogue_model(settings: dict[str, Any]) -> Any:
    """Save a checkpoint in the environment's own format and load it as users do."""
    import torch
    from fairseq.models import MODEL_REGISTRY

    folder = Path(settings["folder"])
    folder.mkdir(exist_ok=True)
    trainer, _ = _trainer({**settings, "options": [*settings["options"], "--save-dir", str(folder)]})
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(folder / "model.pt"), {"train_iterator": {"epoch": 1}})
    data = settings["options"][0]
    model = MODEL_REGISTRY["speech_dlm"].from_pretrained(str(folder), "model.pt", data)
    return model.eval().to(settings["device"]).to(getattr(torch, settings["dtype"]))


def _trainer(settings: dict[str, Any]) -> tuple[Any, list[Any]]:
    import torch
    from fairseq import options, tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.trainer import Trainer

    device = [] if settings["device"] == "cuda" else ["--cpu"]
    sys.argv = ["fairseq-train", *settings["options"], *device]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser()))
    torch.manual_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    if "weights" in settings:
        model.load_state_dict(torch.load(settings["weights"], weights_only=True), strict=True)
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    task.load_dataset("train")
    epochs = trainer.get_train_iterator(epoch=1, load_dataset=False)
    batches = list(epochs.next_epoch_itr(shuffle=False))
    trainer.begin_epoch(1)
    return trainer, batches


def counted_flops(work: Callable[[], object]) -> int:
    """The operations of one round, as PyTorch counts them (matrix products and attention)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def peak_tflops(settings: dict[str, Any]) -> float:
    """What a large product of matrices reaches on the device, in the number format of the training."""
    import torch

    half = {"--fp16": torch.float16, "--bf16": torch.bfloat16}
    dtype = next((half[option] for option in settings["options"] if option in half), torch.float32)
    size = 8192 if settings["device"] == "cuda" else 2048
    matrix = torch.randn(size, size, device=settings["device"], dtype=dtype)
    best = float("inf")
    for _ in range(5):
        wait(settings)
        start = time.perf_counter()
        matrix @ matrix
        wait(settings)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12


def wait(settings: dict[str, Any]) -> None:
    """Until the device has done all that it was given."""
    if settings["device"] == "cuda":
        import torch

        torch.cuda.synchronize()


def peak_memory(settings: dict[str, Any]) -> float:
    """The most memory so far, in GB: of the process, or of the tensors on the GPU."""
    if settings["device"] == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e9
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024 / 1e9
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _answer(file: TextIO, answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=file, flush=True)


if __name__ == "__main__":
    main()
