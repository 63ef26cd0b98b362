"""What can be typed in a chat besides messages: lines that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwopt import write_json
from rlhf.errors import RlhfError, RunError

if TYPE_CHECKING:
    from rlhf.chat import Session


@dataclass(frozen=True)
class Command:
    """`usage` and `help` are what /help prints; `obey` returns false to end the talk."""

    usage: str
    help: str
    obey: Callable[[Session, str], bool | None]


def run_command(session: Session, line: str) -> bool:
    """Obey one line; false ends the talk. Raises `RlhfError` on a wrong use."""
    name, _, argument = line[1:].partition(" ")
    if name not in COMMANDS:
        raise RlhfError(
            "no such command", value=f"/{name}", allowed=" ".join(f"/{n}" for n in COMMANDS),
            fix="a message that begins with a slash is typed with two",
        )  # fmt: skip
    return COMMANDS[name].obey(session, argument.strip()) is not False


def _help(session: Session, _: str) -> None:
    width = max(len(command.usage) for command in COMMANDS.values())
    for command in COMMANDS.values():
        session.say(f"{command.usage:{width}}  {command.help}")
    session.say('several lines: end a line with \\, or put them between """ and """')
    session.say("Ctrl-C stops an answer, Ctrl-D ends")


def _reset(session: Session, _: str) -> None:
    session.conversation.reset()
    session.note("(a new conversation)")


def _system(session: Session, text: str) -> None:
    session.conversation.system = text or None
    session.note("(system message set)" if text else "(no system message)")


def _set(field: str, kind: type) -> Callable[[Session, str], None]:
    """A command that sets one number of the sampling, or shows it."""

    def obey(session: Session, text: str) -> None:
        if text:
            try:
                changed: dict[str, Any] = {field: kind(text)}
                session.sampling = replace(session.sampling, **changed)
            except ValueError as error:
                raise RlhfError(f"not a value for {field}: {error}", value=text) from error
        session.note(f"({field} {getattr(session.sampling, field)})")

    return obey


def _greedy(session: Session, text: str) -> None:
    if text not in ("", "on", "off"):
        raise RlhfError("neither on nor off", value=text)
    on = text == "on" if text else not session.sampling.greedy
    session.sampling = replace(session.sampling, greedy=on)
    session.note(f"(greedy {'on' if on else 'off'})")


def _seed(session: Session, text: str) -> None:
    if text:
        if not text.isdecimal():
            raise RlhfError("not a seed", value=text, allowed="0, 1, 2, ...")
        session.seed = int(text)
        session.restart_numbers()
    session.note(f"(seed {session.seed})")


def _history(session: Session, _: str) -> None:
    talk = session.conversation
    if talk.system:
        session.say(f"system: {talk.system}")
    for at, message in enumerate(talk.messages):
        gone = " (left out)" if at < talk.first else ""
        session.say(f"{message['role']}{gone}: {message['content']}")


def _save(session: Session, text: str) -> None:
    if not text:
        raise RlhfError("no file named", allowed="/save FILE")
    path = Path(text).expanduser()
    if path.exists():
        raise RunError("there is such a file already", where=str(path), fix="choose another name")
    talk = session.conversation
    system = [{"role": "system", "content": talk.system}] if talk.system else []
    write_json(
        path,
        {
            "model": session.name, "sampling": asdict(session.sampling), "seed": session.seed,
            "messages": system + talk.messages,
        },
    )  # fmt: skip
    session.note(f"(saved to {path})")


def _undo(session: Session, _: str) -> None:
    session.note("(last turn taken back)" if session.conversation.undo() else "(nothing to undo)")


def _retry(session: Session, _: str) -> None:
    asked = [m["content"] for m in session.conversation.messages if m["role"] == "user"]
    if not asked:
        raise RlhfError("nothing was asked yet")
    session.conversation.undo()
    session.conversation.ask(asked[-1])
    session.reply()


def _quit(_: Session, __: str) -> bool:
    return False


COMMANDS = {
    "help": Command("/help", "this list", _help),
    "reset": Command("/reset", "forget every turn", _reset),
    "undo": Command("/undo", "take the last message and its answer back", _undo),
    "retry": Command("/retry", "another answer to the last message", _retry),
    "system": Command("/system [TEXT]", "set the system message, or take it away", _system),
    "temperature": Command("/temperature [X]", "set or show it", _set("temperature", float)),
    "top_p": Command("/top_p [X]", "keep the likeliest tokens of this mass", _set("top_p", float)),
    "top_k": Command("/top_k [N]", "keep the N likeliest tokens, 0: all", _set("top_k", int)),
    "tokens": Command("/tokens [N]", "longest answer", _set("response_tokens", int)),
    "minimum": Command("/minimum [N]", "shortest answer", _set("minimum_tokens", int)),
    "greedy": Command("/greedy [on|off]", "always the likeliest token", _greedy),
    "seed": Command("/seed [N]", "repeat the same draws, or show the seed", _seed),
    "history": Command("/history", "everything said", _history),
    "save": Command("/save FILE", "write the conversation as JSON", _save),
    "quit": Command("/quit", "end", _quit),
}
