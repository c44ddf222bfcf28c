"""Headless Chromium: the console and a picture of a page."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest


def find_browser() -> str:
    """Return the path of the browser; skip the test where there is none."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium: on Debian, apt-get install chromium")
    return found


def look(
    browser: str, address: str, picture: Path, width: int, *more: str, height: int = 900
) -> tuple[list[str], bytes]:
    """Return what the console says, and the screen as PNG, which is also written to `picture`."""
    flags = (
        "headless no-sandbox disable-gpu disable-dev-shm-usage no-first-run disable-background-networking "
        "disable-component-update disable-sync enable-logging=stderr"
    )
    command = [browser, *(f"--{flag}" for flag in flags.split()), *more]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    command += [f"--user-data-dir={picture.parent / 'profile'}", f"--screenshot={picture}"]
    command += [f"--window-size={width},{height}", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return re.findall(r'CONSOLE.*?\] "(.*)", source', done.stderr), picture.read_bytes()
