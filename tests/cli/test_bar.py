"""The progress bar on a terminal."""

import os
import pty
import re
import subprocess
import sys

SHOWN = """
import time
from bioscan_hf.cli import bar
from bioscan_hf.cli.command import Output

bar.BAR_DELAY = 0.2
out = Output()
with out.progress("loading"):
    time.sleep(0.5)
    with out.progress() as progress:
        progress("photos", 1234, 5678)
        time.sleep(0.5)
        out.say("a line")
        progress("barcodes", 9, None)
        time.sleep(0.3)
with out.progress(in_bytes=True) as progress:
    progress("quick", 1, 2)
out.wrote("x", next="bioscan-hf stats x")
"""


def on_a_terminal(code):
    """What a program writes to the terminal on standard error, without colours, and on standard output."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # the other end is closed
            pass
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()), out


def test_a_bar_shows_what_takes_long_and_is_removed():
    """Of each stage its name and count, in bytes nothing that ends before the delay; lines are printed whole."""
    shown, out = on_a_terminal(SHOWN)
    assert out == "a line\nWrote x\nNext: bioscan-hf stats x\n"
    for text in ("loading", "photos", "1,234 of 5,678", "barcodes", "0:00:00"):
        assert text in shown, shown
    assert "quick" not in shown and "a line" not in shown


def test_no_bar_elsewhere():
    """Nothing is drawn on standard error that is not a terminal."""
    done = subprocess.run([sys.executable, "-c", SHOWN], capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.startswith("a line")
