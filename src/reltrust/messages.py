"""What pydantic and Hydra object to, as one line for people: the key, the value, what is allowed."""

import difflib
import re
import sys
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import ValidationError

from reltrust import experiment


def of_validation(error: ValidationError, schema: Any, prefix: tuple[str, ...] = (), beside: Iterable[str] = ()) -> str:
    """The first thing that is wrong with a value.

    Args:
        schema: what the value was to be.
        prefix: the key under which it stands in a config.
        beside: keys that may stand beside those of the schema.
    """
    first: Any = error.errors()[0]
    path, allowed = list(prefix), sorted({*_keys(schema), *beside})
    for part in first["loc"]:
        kinds = _dataclasses(schema)
        chosen = [kind for kind in kinds if part in get_args(get_type_hints(kind).get("name"))]
        if chosen:  # not a key: which of several schemas, by its name
            (schema,) = chosen
        else:
            path.append(str(part))
            schema = get_type_hints(kinds[0], include_extras=True).get(part) if len(kinds) == 1 else None
        if part != first["loc"][-1]:
            allowed = _keys(schema)
    key = ".".join(path)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{key}={first['input']!r}: {_unknown(path[-1], allowed)}"
    if first["type"] == "union_tag_invalid":
        return f"{key}.name={first['ctx']['tag']!r}: unknown, allowed are {first['ctx']['expected_tags']}"
    if first["type"] in ("missing", "missing_argument"):
        return f"{key}: missing"
    text = first["msg"].removeprefix("Value error, ")
    text = text.replace("Input should be", "must be").replace("String should match pattern", "must match")
    text = text.replace("String should have", "must have")
    return f"{key}={first['input']!r}: {text[0].lower()}{text[1:]}"


def of_choice(given: str, options: Iterable[str]) -> str:
    """What is wrong with ``group=value`` where the value is no name."""
    return f"{given}: must be a name, allowed are {', '.join(options)}; without it the default is chosen"


def of_hydra(error: Exception, command_keys: Iterable[str]) -> str:
    """Hydra's or OmegaConf's message in this project's form.

    Args:
        command_keys: keys that no config shows and a command line may have.
    """
    from hydra.errors import MissingConfigException
    from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        allowed = error.options
        if group.startswith("experiment/"):  # where the files of the scales are
            group, allowed = "scale", experiment.scales(group.removeprefix("experiment/"))
        return f"{group}={choice}: unknown, allowed are {', '.join(allowed)}"
    if absent := re.match("Could not override '([a-z]+)'. No match in the defaults list", str(error)):
        group = absent[1]
        given = [word for word in sys.argv[1:] if re.match(rf"\+*{group}=", word)]
        return f"{given[0] if given else group}: the chosen experiment is an analysis, which has no {group}"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key and cause.parent_node is not None:
        key = str(cause.full_key)
        # What the command line says of the key, or of one below it.
        exact = rf"\+*{re.escape(key)}"
        given = [word for end in (r"\..*=", "=") for word in sys.argv[1:] if re.match(exact + end, word)]
        shown = given[0] if given else key
        if isinstance(cause, InterpolationResolutionError):
            return f"{shown}: {str(cause).splitlines()[0]}"
        if key == "launcher":
            return f"{shown}: launcher=serial has no settings; launcher=packed, processes, slurm and ray have"
        if key == "sweep":
            return f"{shown}: needs sweep=, the experiment whose grids it changes"
        names = {str(name) for name in cause.parent_node} - {"hydra"}
        return f"{shown}: {_unknown(str(cause.key), sorted(names if '.' in key else names | set(command_keys)))}"
    return " ".join(str(error).split())


def _unknown(key: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(key, allowed, n=1)
    return f"unknown key, allowed are {', '.join(allowed)}{f'; did you mean {close[0]}?' if close else ''}"


def _dataclasses(schema: Any) -> list[Any]:
    """Those that a value of the schema can be: it may be a union, or none."""
    parts = get_args(schema)[:1] if get_origin(schema) is Annotated else get_args(schema)
    return [schema] if is_dataclass(schema) else [kind for part in parts for kind in _dataclasses(part)]


def _keys(schema: Any) -> list[str]:
    return sorted({f.name for kind in _dataclasses(schema) for f in fields(kind)})
