"""A talk with a real tiny model: scripted, and at a real (pseudo) terminal."""

import importlib.util
import io
import json
import os
import pty
import select
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from rlhf.chat import Session, chat, load
from rlhf.conversation import Conversation
from rlhf.errors import ModelError, RunError
from rlhf.sampling import Sampling


def _talker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("talker", Path(__file__).with_name("talker.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


talker = _talker()
GREEDY = Sampling(greedy=True, response_tokens=100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model."""
    path: Path = tmp_path_factory.mktemp("talk") / "model"
    talker.make(path)
    return path


def talk(folder: Path, text: str, sampling: Sampling = GREEDY, **options: object) -> str:
    out = io.StringIO()
    chat(None, folder=folder, sampling=sampling, seed=3, source=io.StringIO(text), out=out,
         device="cpu", **options)  # type: ignore[arg-type]  # fmt: skip
    return out.getvalue()


def test_scripted_each_line_is_a_message_and_output_is_answers_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer that was learned comes out whole, characters that span tokens included."""
    shown = talk(folder, "Where?\n\n/reset\nHi")
    assert shown == f"{talker.SENTENCE}\n" * 2
    assert "(a new conversation)" in capsys.readouterr().err


def test_commands(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings, undo, retry, history, save; wrong uses are errors that end nothing."""
    saved = tmp_path / "talk.json"
    script = f"""/help
/temperature 0.5
/temperature hot
/temperature 0
/tokens 100
/top_k 5
/top_p 2
/greedy off
/greedy on
/system Be brief.
/system
/nonsense
//quoted
/undo
/undo
/retry
Where?
/retry
/save {saved}
/save {saved}
/save
/seed x
/seed 5
/history
/quit
Hi
"""
    shown = talk(folder, script)
    notes = capsys.readouterr().err
    assert "/system [TEXT]" in shown
    assert "(temperature 0.5)" in notes
    assert "not a value for temperature: could not convert" in notes
    assert "temperature must be above 0" in notes
    assert "(response_tokens 100)" in notes
    assert "top_p must be above 0" in notes
    assert "(greedy off)" in notes
    assert "got: '/nonsense'" in notes
    assert notes.count("(last turn taken back)") == 1
    assert "(nothing to undo)" in notes
    assert "nothing was asked yet" in notes
    assert "there is such a file already" in notes
    assert "no file named" in notes
    assert "not a seed" in notes
    data = json.loads(saved.read_text())
    assert [m["role"] for m in data["messages"]] == ["user", "assistant"]
    assert data["messages"][1]["content"] == talker.SENTENCE
    assert data["sampling"]["top_k"] == 5
    assert "user: Where?" in shown
    assert not shown.rstrip().endswith("Hi")


def test_several_lines_make_one_message(folder: Path) -> None:
    """A backslash at the end, or triple quotes."""
    shown = talk(folder, 'one\\\ntwo\n"""three\n  four"""\n"""five"""\n/history\n')
    assert "user: one\ntwo\n" in shown
    assert "user: three\n  four\n" in shown
    assert "user: five\n" in shown


def test_the_same_seed_gives_the_same_talk_and_another_does_not(folder: Path) -> None:
    """Sampled answers repeat with the seed; /retry draws anew, /seed begins again."""
    hot = Sampling(temperature=3.0, response_tokens=20)
    first = talk(folder, "Hi\n", hot)
    assert first == talk(folder, "Hi\n", hot)
    lines = talk(folder, "Hi\n/retry\n/undo\n/seed 3\nHi\n", hot).split("\n")
    assert lines[0] != lines[1]
    assert "\n".join(lines).endswith(first)


def test_what_the_model_says_never_reaches_the_terminal_raw(folder: Path) -> None:
    """At a temperature where every byte is likely, only printable characters come out."""
    shown = talk(folder, "Hi\n", Sampling(temperature=50.0, response_tokens=400))
    assert "\\x" in shown
    assert all(c == "\n" or c == "\t" or c.isprintable() or c == "\u200d" for c in shown)


def test_a_message_may_hold_anything(folder: Path) -> None:
    """Escape sequences, surrogates and names of control tokens are characters of the message."""
    shown = talk(folder, "\x1b[2J</s>\ud800\n/history\n")
    assert "user: \\x1b[2J</s>?" in shown


def test_oldest_turns_leave_when_the_window_is_full(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said, answers go on, and a message that alone is too long is refused and forgotten."""
    model, words = load(folder, None, "cpu")
    out = io.StringIO()
    script = "Where?\nHi\nAgain\n/history\n" + "x" * 400 + "\nHi\n"
    session = Session(model, words, GREEDY, source=io.StringIO(script), out=out)
    session.conversation.window = 180
    session.talk()
    notes = capsys.readouterr().err
    assert "(1 of the oldest turns no longer fit and are left out)" in notes
    assert "user (left out): Where?" in out.getvalue()
    assert "does not fit the model's window" in notes
    assert all("xxx" not in m["content"] for m in session.conversation.messages)
    assert session.conversation.messages[-2]["content"] == "Hi"


def test_conversation_keeps_the_system_message_and_never_exceeds_the_window() -> None:
    """Whatever is dropped, prompt and answer fit together and the newest message is whole."""
    words = talker.tokenizer()
    talk_ = Conversation(words, 200, system="Be brief.")
    for turn in range(30):
        talk_.ask(f"question {turn} " + "long " * (turn % 7))
        tokens, limit = talk_.prompt(60)
        assert 1 <= limit <= 60
        assert len(tokens) + limit <= 200
        text = words.decode(tokens)
        assert "Be brief." in text
        assert f"question {turn} " in text
        talk_.answer("answer")
    assert talk_.first > 0
    assert talk_.messages[talk_.first]["role"] == "user"
    talk_.window = 5
    with pytest.raises(ModelError, match="window"):
        talk_.prompt(60)


def test_wrong_places_are_clear_errors(tmp_path: Path, folder: Path) -> None:
    """No run, no model, no policy, neither or both."""
    with pytest.raises(RunError, match="no such run"):
        chat(tmp_path / "none")
    with pytest.raises(RunError, match="not a run"):
        chat(tmp_path)
    with pytest.raises(RunError, match="exactly one"):
        chat(None)
    with pytest.raises(RunError, match="only a policy"):
        chat(None, folder=folder, role="critic")
    with pytest.raises(ModelError):
        chat(None, folder=tmp_path)


class Terminal:
    """A chat in a child process at a pseudo terminal."""

    def __init__(self, folder: Path, state: Path) -> None:
        script = (
            # a session's first terminal becomes its own: Ctrl-C reaches it
            "import os\nos.close(os.open(os.ttyname(0), os.O_RDWR))\n"
            "from pathlib import Path\nfrom rlhf.chat import chat\n"
            "from rlhf.sampling import Sampling\n"
            f"chat(None, folder=Path({str(folder)!r}), seed=1, device='cpu', "
            "sampling=Sampling(temperature=0.01, response_tokens=100))\n"
        )
        self.main, child = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=child, stdout=child, stderr=child,
            start_new_session=True,
            env={**os.environ, "XDG_STATE_HOME": str(state), "TERM": "xterm", "LANG": "C.UTF-8",
                 "INPUTRC": "/dev/null"},
        )  # fmt: skip
        os.close(child)
        self.shown = ""

    def type(self, text: str) -> None:
        """A moment after the prompt, as people do: a terminal that changes its mode drops input."""
        time.sleep(0.3)
        os.write(self.main, text.encode())

    def wait_for(self, text: str, seconds: float = 60.0) -> str:
        """What appears until `text` does, which is then consumed."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < end, f"no {text!r} in {self.shown!r}"
            if select.select([self.main], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.main, 65536).decode(errors="replace")
                except OSError:
                    assert text in self.shown, self.shown
        before, _, self.shown = self.shown.partition(text)
        return before


@pytest.mark.slow
def test_at_a_terminal(folder: Path, tmp_path: Path) -> None:
    """Streaming, Ctrl-C in an answer and at the prompt, Ctrl-D, messages kept for next time."""
    terminal = Terminal(folder, tmp_path)
    try:
        terminal.wait_for("you> ")
        terminal.type("Where?\r")
        terminal.wait_for("model> ")
        terminal.wait_for("old mill")
        terminal.wait_for("you> ")
        terminal.type("/tokens 3500\r")
        terminal.wait_for("you> ")
        terminal.type("/minimum 3500\r")
        terminal.wait_for("you> ")
        terminal.type("/temperature 60\r")
        terminal.wait_for("you> ")
        terminal.type("Hi\r")
        terminal.wait_for("model> ")
        time.sleep(0.3)
        terminal.type("\x03")
        answer = terminal.wait_for("(stopped)")
        assert answer
        assert "\x07" not in answer
        terminal.wait_for("you> ")
        terminal.type("half a mess\x03")
        terminal.wait_for("(Ctrl-D or /quit ends)")
        terminal.wait_for("you> ")
        terminal.type("/history\r")
        terminal.wait_for("user: Hi")
        terminal.wait_for("assistant: ")
        terminal.wait_for("you> ")
        terminal.type("\x04")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.main)
    history = tmp_path / "rlhf" / "chat_history"
    assert history.read_text().splitlines()[:2] == ["Where?", "/tokens 3500"]
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
