"""The whole demo: the plan, the steps in order, and what to open at the end."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from speechdlm_ext.demo.chain import Chain
from speechdlm_ext.demo.options import DemoOptions, list_recordings
from speechdlm_ext.demo.report import find_versions
from speechdlm_ext.demo.runner import Runner, exclusive
from speechdlm_ext.demo.steps import Stamps, Step
from speechdlm_ext.demo.training_log import TrainingProgress
from speechdlm_ext.errors import InputError

_PLAN = (
    ("corpus", "audio on two channels"),
    ("units", "codebook, units of both channels, what is held out"),
    ("binarize", "fairseq-preprocess for each channel"),
    ("train", "fairseq-train"),
    ("listen", "fairseq-validate, samples, sound, report"),
)


def run_demo(arguments: argparse.Namespace) -> Path:
    """Run the demo, or what is left of it.

    Args:
        arguments: as ``scripts/demo.py`` parses them.

    Returns:
        The report.

    Raises:
        InputError: something that the user can mend.
    """
    options = DemoOptions(**vars(arguments))
    chain = Chain(options)
    _check(chain)
    start = time.monotonic()
    with exclusive(options.out / ".lock") as lock:
        _print_plan(chain)
        runner = Runner(Stamps(options.out / "steps", options.out), options.out / "logs", lock)
        _run(chain, runner)
    page = options.out / "report.html"
    print(f"\n{time.monotonic() - start:.0f} s. Open {page.resolve().as_uri()} in a browser.", flush=True)
    return page


def _check(chain: Chain) -> None:
    """What would otherwise only be found minutes later."""
    options = chain.options
    if options.audio is not None and not list_recordings(options.audio):
        raise InputError(f"{options.audio}: empty; put two-channel recordings (wav, flac, ogg, mp3) there")
    chain.train_step()
    if options.audio is None:
        from speechdlm_ext.synthetic.espeak import EspeakSource

        EspeakSource()


def _run(chain: Chain, runner: Runner) -> None:
    versions = {name: version for name, version in find_versions() if name != "system"}
    runner.run(_with(chain.corpus_step(), versions))
    for step in chain.unit_steps():
        runner.run(step)
    for step in chain.binarize_steps():
        runner.run(step, _preprocess_line)
    runner.run(chain.train_step(), TrainingProgress(chain.options.updates))
    runner.run(chain.validate_step(), _quiet)
    runner.run(chain.prompt_step())
    for step in chain.sample_steps():
        runner.run(step)
    runner.run(chain.report_step())


def _with(step: Step, versions: dict[str, str]) -> Step:
    """The first step depends on the versions, and so do all others after it."""
    step.depends.update({"versions": versions})
    return step


def _quiet(_line: str) -> None:
    return None


def _preprocess_line(line: str) -> str | None:
    return line.rpartition(" | ")[2] if "replaced" in line or "Wrote" in line else None


def _print_plan(chain: Chain) -> None:
    """Time plan, from rates measured on 2 cores."""
    options = chain.options
    minutes = options.minutes if options.audio is None else None
    source = f"{minutes:g} minutes of made conversation" if minutes else f"your recordings in {options.audio}"
    corpus, train = chain.corpus_step().seconds, chain.train_step().seconds
    after = chain.validate_step().seconds + sum(s.seconds for s in chain.sample_steps()) + chain.report_step().seconds
    units = 25 + 0.6 * (minutes or 10)
    binarize = sum(step.seconds for step in chain.binarize_steps())
    print(f"From {source} to a model that continues it. About, on 2 cores:")
    for (name, what), seconds in zip(_PLAN, (corpus, units, binarize, train, after), strict=True):
        print(f"  {name:9s} {seconds / 60:4.1f} min   {what}")
    print(f"  {'in all':9s} {(corpus + units + binarize + train + after) / 60:4.1f} min")
    print(f"Results in {options.out}/. Stop it at any time: started again, it goes on where it was.", flush=True)
