"""Options given as ``name=value``, as hydra's commands take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from speechdlm_ext.errors import InputError, one_line


def read_overrides(kind: Any, words: Sequence[str], usage: str) -> Any:
    """Options of a dataclass from the words of a command line.

    Args:
        kind: the dataclass; what has no default is needed.
        usage: printed for ``--help``.

    Returns:
        The options; None where help was asked for.

    Raises:
        InputError: a word is no ``name=value``, a name is unknown, a value is of another type, or one is missing.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if any(word in ("-h", "--help") for word in words):
        print(usage)
        return None
    kinds = {field.name: field.type for field in fields(kind)}
    given = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or name not in kinds:
            raise InputError(f"{word}: expected name=value, with a name of {', '.join(kinds)}")
        try:  # of texts, colons are not YAML's
            given[name] = value if kinds[name] is str else yaml.safe_load(value)
            OmegaConf.merge(OmegaConf.structured(kind), {name: given[name]})
        except (OmegaConfBaseException, ValueError, yaml.YAMLError) as error:
            raise InputError(f"{word}: {one_line(error).split(' full_key:')[0]}") from None
    options = OmegaConf.merge(OmegaConf.structured(kind), given)
    if missing := [name for name in kinds if OmegaConf.is_missing(options, name)]:
        raise InputError(f"{missing[0]}= is needed; --help lists all options")
    return options
