"""The command app: it serves, it writes a Space, and its errors are one line."""

import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest
import yaml
from typer.main import get_command

from bioscan_hf import __version__
from bioscan_hf.cli.main import app, main


def fails(capsys, *arguments):
    """The one line on standard error of a command that fails."""
    with pytest.raises(SystemExit) as stopped:
        main(["app", *map(str, arguments)])
    assert stopped.value.code in (1, 2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_interrupted(library, told):
    """From a library alone, with a message of where; Ctrl+C or SIGTERM ends it, and no folder stays."""
    command = [sys.executable, "-m", "bioscan_hf.cli.main", "app", str(library)]
    environment = os.environ | {"TMPDIR": str(library.parent), "PYTHONUNBUFFERED": "1"}
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test in the background may ignore it
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    finally:
        signal.signal(signal.SIGINT, heard)
    try:
        line = process.stdout.readline()
        address = re.fullmatch(r"The page is at (http://127\.0\.0\.1:\d+/) \(Ctrl\+C ends it\)\.\n", line)
        assert address, line
        page = httpx.get(address[1]).text
        process.send_signal(told)
        process.wait(60)
    finally:
        process.kill()
        process.communicate()
    assert "Names for specimens" in page and not re.search(r"fonts\.g|cdn|google", page)
    assert not list(library.parent.glob("bioscan_hf-app-*"))


def test_a_space_is_written(library, tmp_path, capsys):
    folder = tmp_path / "space"
    main(["app", str(library), "bioscan-ml/BIOSCAN-5M", "--space", str(folder)])
    assert "hf upload USER/NAME" in capsys.readouterr().out
    program = (folder / "app.py").read_text()
    compile(program, "app.py", "exec")
    assert 'open_parts(["library", "bioscan-ml/BIOSCAN-5M"], clusters=None, model=None)' in program
    assert str(library) not in program and (folder / "library" / "library.json").is_file()
    assert (folder / "requirements.txt").read_text().endswith(f"\nbioscan_hf[app]=={__version__}\n")
    card = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert card["sdk"] == "gradio" and card["app_file"] == "app.py" and len(card["short_description"]) <= 60
    assert "app.py' exists" in fails(capsys, library, "--space", folder)
    main(["app", str(library), "--space", str(folder), "--force", "--quiet"])
    assert 'open_parts(["library"],' in (folder / "app.py").read_text()
    assert "There is nothing at 'nowhere'" in fails(capsys, "nowhere", "--space", tmp_path / "other")


def test_the_program_of_a_space_runs(library, tmp_path, monkeypatch):
    """Only the address differs here: 0.0.0.0:7860 there."""
    from bioscan_hf.app.page import Served, serve
    from bioscan_hf.app.space import write_space

    write_space(tmp_path / "space", [str(library)])
    monkeypatch.chdir(tmp_path / "space")
    monkeypatch.setattr("bioscan_hf.app.page.serve", lambda parts, host, port: serve(parts))
    pages = []
    monkeypatch.setattr(Served, "wait", lambda page: pages.append(page))
    exec((tmp_path / "space" / "app.py").read_text(), {})
    assert httpx.get(pages[0].address).status_code == 200
    pages[0].close()


def test_errors_are_one_line(library, dataset, tmp_path, capsys, monkeypatch):
    assert "There is nothing at 'nowhere'" in fails(capsys, "nowhere")
    assert "a second library of sequences" in fails(capsys, library, library)
    assert "a second dataset" in fails(capsys, dataset, dataset)
    assert "has no clusters.parquet" in fails(capsys, library, "--clusters", tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"Port {port} of 127.0.0.1 cannot be used" in fails(capsys, library, "--port", port)
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in [name for name in sys.modules if name.startswith("bioscan_hf.app.")]:
        monkeypatch.delitem(sys.modules, name)
    assert "The web page needs gradio: pip install 'bioscan_hf[app]'." in fails(capsys, library)


def test_help_loads_no_gradio():
    code = "from bioscan_hf.cli.main import *; get_command(app)\nimport sys\nprint('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
    assert "app" in get_command(app).commands
