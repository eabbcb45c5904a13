"""Speech through espeak-ng, and the commands for the systems' own voices."""

from __future__ import annotations

import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

from showtell.errors import BackendError, ConfigError
from showtell.jobs import speech
from showtell.jobs.speech import speak

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
VOICES = """Alice               it_IT    # Ciao! Mi chiamo Alice.
Daniel              en_GB    # Hello! My name is Daniel.
Samantha            en_US    # Hello! My name is Samantha.
Bad News            en_US    # Hello!
"""


def _sound(path: Path) -> tuple[int, np.ndarray]:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), np.int16)


@needs_espeak
def test_a_text_becomes_sound_as_long_as_it_is(tmp_path: Path) -> None:
    speak("A dog.", wav=tmp_path / "-short.wav")
    speak("A dog runs through the grass and a cat looks at it.", wav=tmp_path / "long.wav")
    rate, short = _sound(tmp_path / "-short.wav")
    _, long = _sound(tmp_path / "long.wav")
    assert 0.3 * rate < len(short) < len(long) / 2
    assert np.abs(short).max() > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["-short.wav", "long.wav"]


@needs_espeak
def test_the_language_changes_the_voice(tmp_path: Path) -> None:
    sounds = []
    for language in ("en", "vi", "en_US"):
        speak("Con mèo.", language, tmp_path / "one.wav")
        sounds.append(_sound(tmp_path / "one.wav")[1].tobytes())
    assert sounds[0] != sounds[1]


@needs_espeak
@pytest.mark.parametrize("text", ["$(touch owned)", "`touch owned`", "-f /etc/passwd", "[[a]]", "<b>é \udcff</b>"])
def test_texts_are_only_spoken(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    speak(text, wav=Path("said.wav"))
    assert [path.name for path in tmp_path.iterdir()] == ["said.wav"]
    assert len(_sound(tmp_path / "said.wav")[1]) > 1000


@needs_espeak
def test_a_language_without_a_voice_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no voice speaks 'xx'"):
        speak("hello", "xx", tmp_path / "a.wav")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "language"), [(" ", "en"), ("hello", "en;ls"), ("hello", "-v"), ("hello", "")])
def test_no_text_and_no_language_are_mistakes(text: str, language: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        speak(text, language, tmp_path / "a.wav")


def test_without_a_program_the_sentence_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech.shutil, "which", lambda name: None)
    with pytest.raises(BackendError, match=r"'apt install espeak-ng'.*'brew install espeak-ng'"):
        speak("hello")


def test_a_program_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "espeak-ng"
    fake.write_text("#!/bin/sh\necho 'cannot find card' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match=r"cannot find card.*--wav FILE"):
        speak("hello")


def test_the_voice_of_a_mac_is_of_the_language() -> None:
    assert speech._choose_voice(VOICES, "it") == "Alice"
    assert speech._choose_voice(VOICES, "en") == "Daniel"
    assert speech._choose_voice(VOICES, "en-US") == "Samantha"
    with pytest.raises(BackendError, match="'vi'"):
        speech._choose_voice(VOICES, "vi")


def test_the_systems_own_voices_take_the_text_from_stdin_too() -> None:
    say = speech._say_command("say", "Alice", Path("a.wav"))
    assert say.arguments[:5] == ["say", "-v", "Alice", "-f", "-"]
    assert say.arguments[-1].startswith("--data-format=LEI16")
    shell = speech._powershell_command("powershell", "pt_BR", Path("it's $x.wav"))
    assert "it's" not in " ".join(shell.arguments)
    assert shell.environment["SHOWTELL_WAV"].endswith("it's $x.wav")
    assert shell.environment["SHOWTELL_LANGUAGE"] == "pt-BR"
