"""Text -> speech, through espeak-ng or the voice of the system; nothing is sent anywhere.

The text goes to the program on its standard input and never through a shell.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from showtell.errors import BackendError, ConfigError

_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(?:[-_][A-Za-z0-9]{1,8})*")
_ESPEAK = ("espeak-ng", "espeak")
_MISSING = (
    "there is no program that speaks; install espeak-ng: 'apt install espeak-ng' on Debian and Ubuntu, "
    "'brew install espeak-ng' on macOS"
)
_POWERSHELL = """
[Console]::InputEncoding = [System.Text.Encoding]::UTF8
Add-Type -AssemblyName System.Speech
$voice = New-Object System.Speech.Synthesis.SpeechSynthesizer
$culture = [System.Globalization.CultureInfo]::GetCultureInfo($env:SHOWTELL_LANGUAGE)
$known = $voice.GetInstalledVoices($culture) | Where-Object { $_.Enabled }
if (-not $known) {
  $known = $voice.GetInstalledVoices() | Where-Object {
    $_.Enabled -and $_.VoiceInfo.Culture.TwoLetterISOLanguageName -eq $culture.TwoLetterISOLanguageName
  }
}
if (-not $known) { [Console]::Error.WriteLine("no voice speaks $env:SHOWTELL_LANGUAGE"); exit 3 }
$voice.SelectVoice(@($known)[0].VoiceInfo.Name)
if ($env:SHOWTELL_WAV) { $voice.SetOutputToWaveFile($env:SHOWTELL_WAV) }
$voice.Speak([Console]::In.ReadToEnd())
$voice.Dispose()
"""


@dataclass(frozen=True)
class _Command:
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def speak(text: str, language: str = "en", wav: Path | None = None) -> None:
    """Says a text, and comes back when it has been said; or writes the sound into a file.

    Args:
        language: A tag such as `en`, `vi` or `pt-BR`, which chooses the voice.
        wav: Where the sound goes as a WAV file (mono, 16 bits); nothing is heard then.

    Raises:
        BackendError: No program speaks, it has no voice for the language, or there is no sound device.
        ConfigError: The language is no tag, or the text is empty.
        OSError: The file cannot be written.
    """
    if not _LANGUAGE.fullmatch(language):
        raise ConfigError(f"{language!r} is no language; give a tag such as en, vi or pt-BR")
    if not text.strip():
        raise ConfigError("there is no text to speak")
    if wav is None:
        _run(_find_command(language, None), text, language)
        return
    with tempfile.TemporaryDirectory(dir=wav.parent, prefix=".showtell-") as folder:
        made = Path(folder) / "speech.wav"
        _run(_find_command(language, made), text, language)
        if not made.is_file():
            raise BackendError(f"the speech program wrote no sound for {wav}; try a shorter text")
        made.replace(wav)


def _find_command(language: str, wav: Path | None) -> _Command:
    espeak = next(filter(None, map(shutil.which, _ESPEAK)), None)
    if espeak is not None:
        return _espeak_command(espeak, language, wav)
    system = platform.system()
    if system == "Darwin" and (say := shutil.which("say")):
        return _say_command(say, _say_voice(say, language), wav)
    if system == "Windows" and (powershell := shutil.which("powershell") or shutil.which("pwsh")):
        return _powershell_command(powershell, language, wav)
    raise BackendError(_MISSING)


def _espeak_command(program: str, language: str, wav: Path | None) -> _Command:
    output = ["-w", os.path.abspath(wav)] if wav is not None else []  # noqa: PTH100  (resolves no link)
    return _Command([program, "-v", language.lower().replace("_", "-"), "-b", "1", "--stdin", *output])


def _say_command(program: str, voice: str, wav: Path | None) -> _Command:
    output = ["-o", os.path.abspath(wav), "--data-format=LEI16@22050"] if wav is not None else []  # noqa: PTH100
    return _Command([program, "-v", voice, "-f", "-", *output])


def _powershell_command(program: str, language: str, wav: Path | None) -> _Command:
    environment = {"SHOWTELL_LANGUAGE": language.replace("_", "-"), "SHOWTELL_WAV": str(wav.absolute()) if wav else ""}
    return _Command([program, "-NoProfile", "-NonInteractive", "-Command", _POWERSHELL], environment)


def _say_voice(program: str, language: str) -> str:
    listed = subprocess.run([program, "-v", "?"], capture_output=True, check=False).stdout.decode("utf-8", "replace")
    return _choose_voice(listed, language)


def _choose_voice(listed: str, language: str) -> str:
    """The first voice that macOS's `say -v ?` lists for a language, one of the same region before others.

    Raises:
        BackendError: There is none.
    """
    rows = re.findall(r"^(\S.*?)\s+([a-z]{2,3}(?:[_-]\w+)*)\s+#", listed, re.MULTILINE)
    wanted = language.lower().replace("_", "-")
    for name, tag in rows:
        if tag.lower().replace("_", "-") == wanted:
            return str(name)
    for name, tag in rows:
        if re.split("[_-]", tag.lower())[0] == wanted.split("-")[0]:
            return str(name)
    raise BackendError(f"no voice of this Mac speaks {language!r}; add one in System Settings, Accessibility, Speech")


def _run(command: _Command, text: str, language: str) -> None:
    try:
        done = subprocess.run(
            command.arguments,
            # espeak-ng reads what stands between [[ and ]] as names of sounds
            input=(text.replace("[[", "[ [") + "\n").encode("utf-8", "replace"),
            capture_output=True,
            check=False,
            env={**os.environ, **command.environment},
        )
    except OSError as error:
        raise BackendError(f"cannot start {command.arguments[0]} ({error.strerror or error}); {_MISSING}") from error
    if done.returncode == 0:
        return
    lines = done.stderr.decode("utf-8", "replace").split("\n")
    reason = next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {done.returncode}")
    if "voice" in reason.lower():
        raise BackendError(f"no voice speaks {language!r} ({reason}); 'espeak-ng --voices' lists the languages")
    raise BackendError(f"nothing could be said ({reason}); without a sound device, write a file with --wav FILE")
