"""Talk to a trained model in the terminal: `rlhf chat RUN`.

    you> where is the red lantern?
    sft> Good question! The red lantern is in the old mill.

Answers appear token by token. Ctrl-C stops an answer and keeps the talk, Ctrl-D ends it. What the
model says is escaped before it is printed. When standard input is no terminal, each line is one
message or command, standard output holds answers alone, and notes go to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from rlhf.commands import COMMANDS, run_command
from rlhf.conversation import Conversation, window_of
from rlhf.draw import uniforms
from rlhf.errors import ModelError, RlhfError, RunError
from rlhf.escaping import visible
from rlhf.rollout import PlainRollout
from rlhf.runs import Run
from rlhf.sampling import Sampling
from rlhf.streaming import TextStream

HISTORY = "chat_history"
MOST_HISTORY = 1000
QUOTES = '"""'


def chat(
    run: Path | None,
    *,
    stage: str | None = None,
    role: str = "actor",
    folder: Path | None = None,
    sampling: Sampling | None = None,
    system: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    source: TextIO | None = None,
    out: TextIO | None = None,
) -> None:
    """A conversation with the policy of a run, or of any Hugging Face folder.

    Args:
        run: A run folder; None: `folder` says which model.
        stage: Whose model; None: the newest.
        role: "actor", "ema" or "reference".
        folder: A Hugging Face folder with a causal language model and its tokenizer.
        sampling: None: that of the run's last stage that generates.
        system: The system message at the beginning.
        seed: Makes the answers repeatable; None: fresh each time.
        device: None: a GPU where there is one.
        source: Where messages come from; None: standard input. No terminal: read line by line.
        out: Where answers go; None: standard output.

    Raises `RunError` or `ModelError` when there is no such model.
    """
    opened = Run(Path(run)) if run is not None else None
    if (opened is None) == (folder is None):
        raise RunError("give a run or a folder", allowed="exactly one of the two")
    if role not in ("actor", "ema", "reference"):
        raise RunError("only a policy can talk", value=role, allowed="actor, ema, reference")
    where = Path(folder) if folder is not None else None
    if opened is not None:
        where = opened.model(role, stage)
        sampling = sampling or _sampling(opened)
    assert where is not None
    model, tokenizer = load(where, opened.tokenizer if opened is not None else None, device)
    session = Session(
        model, tokenizer, sampling or Sampling(), name=where.parent.name if opened else where.name,
        system=system, seed=seed, source=source or sys.stdin, out=out or sys.stdout,
    )  # fmt: skip
    with suppress(BrokenPipeError):
        session.talk(_history(opened))


class Session:
    """One talk: the model, what was said, and how the next answer is sampled."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sampling: Sampling,
        *,
        name: str = "model",
        system: str | None = None,
        seed: int | None = None,
        source: TextIO,
        out: TextIO,
    ) -> None:
        self.model, self.tokenizer, self.sampling, self.name = model, tokenizer, sampling, name
        self.conversation = Conversation(tokenizer, window_of(model, tokenizer), system)
        self.seed = seed if seed is not None else int.from_bytes(os.urandom(6))
        self.source, self.out = source, out
        self.interactive = source.isatty() and out.isatty()
        self._answers = 0
        self._rollout = PlainRollout(lambda: nullcontext(model), _ends(model, tokenizer))
        for stream in (source, out):
            if hasattr(stream, "reconfigure"):  # bytes that are no text are shown, not fatal
                stream.reconfigure(errors="replace")

    def talk(self, history: Path | None = None) -> None:
        """Read and answer until the end of input or /quit."""
        if self.interactive:
            self.note(f"{self.name}; /help lists commands, Ctrl-D ends")
        with _line_editing(history if self.interactive else None):
            while True:
                try:
                    text = self._read()
                    if text is None or not self._handle(text):
                        return
                except KeyboardInterrupt:
                    if not self.interactive:
                        raise
                    self.note("\n(Ctrl-D or /quit ends)")

    def restart_numbers(self) -> None:
        """The next answer is sampled as the first one was with this seed."""
        self._answers = 0

    def note(self, text: str) -> None:
        """A message that is not an answer."""
        file = self.out if self.interactive else sys.stderr
        print(visible(text), file=file, flush=True)

    def say(self, text: str, end: str = "\n") -> None:
        """Print a result."""
        self.out.write(visible(text) + end)
        self.out.flush()

    def reply(self) -> None:
        """Answer the last message, streaming; an answer that Ctrl-C stops stays as far as it is."""
        before = self.conversation.first
        prompt, limit = self.conversation.prompt(self.sampling.response_tokens)
        if gone := self.conversation.first - before:
            self.note(f"({gone // 2} of the oldest turns no longer fit and are left out)")
        self._answers += 1
        numbers = uniforms(self.seed, self._answers, [0], 1, self.sampling.response_tokens)
        stream = TextStream(self.tokenizer)
        if self.interactive:
            self.say(f"{self.name}> ", end="")
        stopped = finished = False
        sampling = replace(
            self.sampling, response_tokens=limit,
            minimum_tokens=min(self.sampling.minimum_tokens, limit),
        )  # fmt: skip
        tokens = self._rollout.stream(prompt, sampling, numbers)
        try:
            with _no_echo(self.source if self.interactive else None):
                for token in tokens:
                    self.say(stream.add(token), end="")
                    finished = token in self._rollout.ends
        except KeyboardInterrupt:
            stopped = True
        self.conversation.answer(stream.text)
        self.say(stream.end())
        if stopped and not self.interactive:
            raise KeyboardInterrupt
        if stopped:
            self.note("(stopped)")
        elif not finished:
            self.note(f"(cut at {limit} tokens; /tokens N allows more)")

    def _handle(self, text: str) -> bool:
        """Answer a message or obey a command; false ends the talk."""
        if not text.strip():
            return True
        try:
            if text.startswith("/") and not text.startswith("//"):
                return run_command(self, text)
            self.conversation.ask(text.removeprefix("/") if text.startswith("//") else text)
            try:
                self.reply()
            except RlhfError:
                self.conversation.undo()
                raise
        except RlhfError as error:
            self.note(f"error: {error}")
        return True

    def _read(self) -> str | None:
        r"""The next message, of several lines when they end in \ or stand between triple quotes."""
        line = self._line("you> ")
        if line is None:
            return None
        quoted = line.startswith(QUOTES)
        if quoted:
            line = line.removeprefix(QUOTES)
        lines: list[str] = []
        while True:
            if quoted and line.rstrip().endswith(QUOTES):
                return "\n".join([*lines, line.rstrip().removesuffix(QUOTES)])
            if not quoted and not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line if quoted else line[:-1])
            following = self._line("...> ")
            if following is None:
                return "\n".join(lines)
            line = following

    def _line(self, prompt: str) -> str | None:
        """One line without its end; None at the end of input."""
        if self.interactive and self.source is sys.stdin:
            try:
                text = input(prompt)
            except EOFError:
                self.say("")
                return None
        else:
            text = self.source.readline()
            if not text:
                return None
            text = text.removesuffix("\n").removesuffix("\r")
        # a lone surrogate cannot be tokenised or saved
        return text.encode("utf-8", "replace").decode("utf-8")


@contextmanager
def _no_echo(terminal: TextIO | None) -> Iterator[None]:
    """What is typed during an answer is kept for the next message and not mixed into it."""
    try:
        import termios
    except ImportError:  # no such terminals on this system
        terminal = None
    if terminal is None:
        yield
        return
    number = terminal.fileno()
    before = termios.tcgetattr(number)
    quiet = before.copy()
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(number, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(number, termios.TCSANOW, before)


class _line_editing:  # noqa: N801 - used as a function
    """Arrow keys and the messages of earlier talks, kept in `history` (readable by its owner)."""

    def __init__(self, history: Path | None) -> None:
        self._history = history

    def __enter__(self) -> None:
        if self._history is None:
            return
        try:
            import readline
        except ImportError:  # not built in everywhere: plain input then
            self._history = None
            return
        readline.set_history_length(MOST_HISTORY)
        readline.clear_history()
        names = [f"/{name}" for name in COMMANDS]

        def complete(text: str, state: int) -> str | None:
            found = [name for name in names if text.startswith("/") and name.startswith(text)]
            return found[state] if state < len(found) else None

        readline.set_completer_delims(" \n")
        readline.set_completer(complete)
        readline.parse_and_bind("tab: complete")
        with suppress(OSError):
            readline.read_history_file(self._history)

    def __exit__(self, *exception: object) -> None:
        if self._history is None:
            return
        import readline

        with suppress(OSError):
            self._history.parent.mkdir(parents=True, exist_ok=True)
            self._history.touch(mode=0o600)
            readline.write_history_file(self._history)


def load(folder: Path, tokenizer: Path | None, device: str | None = None) -> tuple[Any, Any]:
    """A causal language model ready to generate, and its tokenizer.

    tokenizer: the folder of the tokenizer where `folder` has none of its own. On a GPU the weights
    keep their own element type, on a CPU they are float32.
    """
    import torch
    import transformers

    from rlhf.data.template import DEFAULT_TEMPLATE
    from rlhf.models import build_model
    from rlhf.plan import Engine, RoleModel

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    own = (folder / "tokenizer.json").exists() or (folder / "tokenizer_config.json").exists()
    place = folder if own or tokenizer is None else tokenizer
    try:
        words = transformers.AutoTokenizer.from_pretrained(place, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError("no tokenizer that can be used", where=str(place),
                         value=str(error)[:200]) from error  # fmt: skip
    if words.chat_template is None:
        words.chat_template = DEFAULT_TEMPLATE
    module: Any = build_model(
        folder, "policy", engine=Engine(zero=0), role=RoleModel(), seed=0, device=device
    )
    model = module.model
    stored = getattr(model.config, "dtype", None)
    if device.startswith("cuda") and isinstance(stored, torch.dtype):
        model = model.to(stored)
    return model.eval(), words


def _ends(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end an answer: the tokenizer's, and those of the model's generation settings."""
    found = {tokenizer.eos_token_id}
    told = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found.update(told if isinstance(told, list) else [told])
    return tuple(sorted(int(i) for i in found if i is not None))


def _sampling(run: Run) -> Sampling | None:
    generating = [s.sampling for s in run.plan.stages if s.algorithm.data == "prompts"]
    return generating[-1] if generating else None


def _history(run: Run | None) -> Path:
    if run is not None:
        return run.path / HISTORY
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "rlhf" / HISTORY
