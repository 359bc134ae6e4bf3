"""Config classes whose defaults are config classes: in fairseq, in ours, and in a user's own module."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

USER_MODULE = """
from dataclasses import dataclass, field
from typing import List
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import register_task, FairseqTask

@dataclass
class Plain:
    width: int = 3

@dataclass
class Inner(FairseqDataclass):
    depth: int = 2

@dataclass(unsafe_hash=True)
class Hashed(FairseqDataclass):
    rate: int = 5

@dataclass
class Outer(FairseqDataclass):
    inner: Inner = Inner()
    other: Inner = field(default=Inner(depth=7), metadata={"help": "another"})
    plain: Plain = Plain()
    hashed: Hashed = Hashed()
    layers: List[int] = field(default_factory=lambda: [1, 2])

@dataclass
class NotDerived:
    inner: Inner = Inner(depth=9)

@register_task("task_of_a_user", dataclass=Outer)
class UserTask(FairseqTask):
    pass
"""


def test_a_user_module_may_nest_configs(tmp_path: Path, run_command: Any) -> None:
    folder = tmp_path / "user_module"
    folder.mkdir()
    (folder / "__init__.py").write_text(USER_MODULE)
    program = f"""
from argparse import Namespace
from fairseq import utils
utils.import_user_module(Namespace(user_dir={str(folder)!r}))
import user_module as m
from omegaconf import OmegaConf
c = OmegaConf.structured(m.Outer)
print(c.inner.depth, c.other.depth, c.plain.width, c.hashed.rate, list(c.layers), m.NotDerived().inner.depth)
same = hash(m.Hashed(rate=1)) == hash(m.Hashed(rate=1))
print(m.Outer.__dataclass_fields__["other"].default.depth, m.Inner() == m.Inner(), same)
"""
    program = "from speechdlm_ext import compat; compat.activate()\n" + program
    lines = run_command(["python", "-c", program]).stdout.strip().splitlines()
    assert lines[-2:] == ["2 7 3 5 [1, 2] 9", "7 True True"]


def test_the_decorator_itself_is_left_alone() -> None:
    import fairseq.dataclass.configs

    assert dataclasses.dataclass.__module__ == "dataclasses"
    assert fairseq.dataclass.configs.dataclass is dataclasses.dataclass


@pytest.mark.skipif(sys.version_info < (3, 11), reason="such defaults are allowed")
def test_classes_of_others_are_still_refused() -> None:
    import fairseq  # noqa: F401

    @dataclasses.dataclass
    class Ours:
        number: int = 1

    with pytest.raises(ValueError, match="mutable default"):

        @dataclasses.dataclass
        class Outer:
            ours: Ours = Ours()


def test_fairseq_reads_the_default_of_a_field() -> None:
    from fairseq.dataclass.configs import CommonConfig, FairseqConfig

    assert isinstance(FairseqConfig.__dataclass_fields__["common"].default, CommonConfig)
