"""What the commands say of themselves: their help, and the completion of their names in a shell."""

import inspect
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from resnet_jax.cli.arguments import GivenConfig, flags
from resnet_jax.configs import described, load
from resnet_jax.configs.fields import as_text
from resnet_jax.configs.parsing import PACKAGED
from resnet_jax.errors import InputError, did_you_mean

Commands = Mapping[str, Callable[[Sequence[str]], None]]


def overview(commands: Commands) -> str:
    """All commands, with the first line of what each says of itself."""
    lines = [f"  {name:15} {(command.__doc__ or '').splitlines()[0]}" for name, command in commands.items()]
    return "\n".join(["resnet-jax COMMAND [--help] …", "resnet-jax --version", "", *lines])


def command_help(command: Callable[..., Any], arguments: Sequence[str]) -> str:
    """The help of a command; that of one that trains ends with every field of the config that the arguments name."""
    text = inspect.getdoc(command) or ""
    if command.__name__ != "train":
        return text
    source = _config(arguments)
    width, title = shutil.get_terminal_size((120, 0)).columns, source or "cifar10, which the other configs amend"
    lines = [text, "", f"The fields, with their values in {title}:"]
    section = ""
    for name, default, comment in described(load(source) if source else None):
        if section != (section := name.rpartition(".")[0]):
            lines.append("")
        flag = f"  --config.{name}={as_text(default)}"
        field = f"{flag:41}  {comment}"
        lines += textwrap.wrap(field, min(width, 120), subsequent_indent=" " * 43, break_on_hyphens=False)
    return "\n".join(lines)


def _config(arguments: Sequence[str]) -> str | None:
    """What --config=NAME or --config NAME says, of several the last one, as for the command itself."""
    found = None
    for word, following in zip(arguments, [*arguments[1:], "-"], strict=True):
        if word.startswith("--config="):
            found = word.partition("=")[2]
        elif word == "--config" and not following.startswith("-"):
            found = following
    return found


def completion_script(shell: str, commands: Commands) -> str:
    """A script for a shell, which completes commands, flags, their choices and the packaged configs.

    Raises:
      InputError: another shell.
    """
    if shell not in ("bash", "zsh", "fish"):
        hint = did_you_mean(shell, ("bash", "zsh", "fish"))
        raise InputError(f"there is no completion for {shell!r}: {hint}bash, zsh and fish have one")
    if shell == "fish":
        return "\n".join([_FISH, *_fish(commands)])
    # The longer of two commands first: "prepare cache" before "prepare".
    words = sorted(_words(commands).items(), reverse=True)
    cases = [f"    {repr(f'{name} ') if name else ''}*) words='{' '.join(each)}' ;;" for name, each in words]
    return ("autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "") + _BASH % "\n".join(cases)


def _words(commands: Commands) -> dict[str, list[str]]:
    """What can follow each command: the second words of others, and flags with their choices; "" is no command yet."""
    found: dict[str, list[str]] = {"": []}
    for name, command in commands.items():
        first, _, second = name.partition(" ")
        found[""] += [first] if first not in found[""] else []
        found.setdefault(first, [])
        found[first] += [second] if second else []
        words = found.setdefault(name, [])
        for flag, kind in flags(command).items():
            choices = PACKAGED if kind is GivenConfig else get_args(kind) if get_origin(kind) is Literal else ("",)
            words += [f"--{flag}"] if kind is bool else [f"--{flag}={choice}" for choice in choices]
            words += [f"--config.{field.name}=" for field in described()] if kind is GivenConfig else []
    return found


# The word as it stands on the line, for bash takes "=" and ":" for ends of words; zsh, which runs this too, takes the
# letters of COMP_POINT without its "$" for modifiers.
_BASH = """_resnet_jax() {
  local line=${COMP_LINE:0:$COMP_POINT} cur=${COMP_WORDS[COMP_CWORD]} words
  local word=${line##* }
  case "${line#* }" in
%s
  esac
  [ "$cur" = "=" ] && cur=
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  COMPREPLY=("${COMPREPLY[@]#"${word%%"$cur"}"}")
  case "${COMPREPLY[0]}" in *=) compopt -o nospace 2>/dev/null ;; esac
}
complete -o default -F _resnet_jax resnet-jax"""

_FISH = """function __resnet_jax
  string match -q -- "$argv *" (commandline -cp | string replace -r '^\\S+\\s+' '')
end
complete -c resnet-jax -n __fish_use_subcommand -f"""


def _fish(commands: Commands) -> Iterator[str]:
    for name, words in _words(commands).items():
        when = f"'__resnet_jax {name}'" if name else "__fish_use_subcommand"
        plain = [word for word in words if not word.startswith("--")]
        if plain:
            yield f"complete -c resnet-jax -n {when} -f -a '{' '.join(plain)}'"
        for flag in dict.fromkeys(word.partition("=")[0] for word in words if word.startswith("--")):
            values = [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
            takes = "" if not values else f" -x -a '{' '.join(values)}'" if values[0] else " -r"
            yield f"complete -c resnet-jax -n {when} -l {flag[2:]}{takes}"
