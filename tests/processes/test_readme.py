"""Every code block of the README and of docs/api.md works: commands and Python run, JSON parses."""

from __future__ import annotations

import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.live_server import LiveServer
from tests.markdown_blocks import Block, check_diagram, read_blocks, read_commands
from tests.readme_commands import LOCAL, ROOT, is_run

README = read_blocks((ROOT / "README.md").read_text("utf-8"))
API = read_blocks((ROOT / "docs" / "api.md").read_text("utf-8"))
PICTURES = {".png", ".jpg", ".jpeg", ".webp"}


class Reader:
    """Someone who follows a document in one folder, with a server on some port in place of 8000."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        # An answer of 4xx or 5xx is a failure; a document whose commands fail is wrong.
        (folder / ".curlrc").write_text(
            "fail-with-body\nsilent\nshow-error\nmax-time = 120\n", "utf-8"
        )

    def follow(self, block: Block) -> None:
        """Do what a block says.

        Raises:
            AssertionError: it fails, or its language or a command of it is not known here.
            ValueError: it cannot be parsed.
        """
        languages: dict[str, Callable[[str], None]] = {
            "bash": self.shell,
            "python": self.python,
            "json": self.json,
            "mermaid": check_diagram,
        }
        assert block.language in languages, (
            f"line {block.line}: no way to test a block of {block.language!r}"
        )
        languages[block.language](block.text)

    def shell(self, text: str) -> None:
        """Run or check the commands one after the other."""
        for command in read_commands(text):
            if is_run(command):
                self.run("bash", "-c", f"set -euo pipefail\n{self.redirected(command)}")

    def python(self, text: str) -> None:
        """Run as a script."""
        script = self.folder / "block.py"
        script.write_text(self.redirected(text), "utf-8")
        self.run(sys.executable, str(script))

    def json(self, text: str) -> None:
        """Parse."""
        json.loads(text)

    def redirected(self, text: str) -> str:
        """The text with this reader's server in place of port 8000, and these tests' environment on the path."""
        return LOCAL.sub(f"127.0.0.1:{self.port}", text).replace(".venv/bin/", "")

    def run(self, *command: str) -> None:
        """Run in the folder; the pictures that it writes must open."""
        before = self.pictures()
        scripts = str(Path(sys.executable).parent)
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": os.pathsep.join([scripts, os.environ["PATH"]]),
                "CURL_HOME": str(self.folder),
                "HF_HUB_OFFLINE": "0",  # or its client would not speak to this machine either
                "PYTHONPATH": str(ROOT),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
        for path, changed in self.pictures().items():
            if before.get(path) != changed:
                with Image.open(path) as picture:
                    picture.load()

    def pictures(self) -> dict[Path, int]:
        """The picture files of the folder, with the time of their last change."""
        return {
            p: p.stat().st_mtime_ns for p in self.folder.iterdir() if p.suffix.lower() in PICTURES
        }


# ---- the README --------------------------------------------------------------------------------------------
def test_the_readme_shows_how_to_start_and_how_to_ask() -> None:
    commands = [
        c for block in README if block.language == "bash" for c in read_commands(block.text)
    ]
    assert any(command.startswith("make serve") for command in commands)
    assert any(command.startswith("make test") for command in commands)
    assert any(command.startswith("curl") and "/generate" in command for command in commands)


@pytest.fixture(scope="module")
def reader(live_server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """One folder for all of them: a block may use what an earlier one wrote."""
    return Reader(tmp_path_factory.mktemp("readme"), live_server.port)


@pytest.mark.parametrize(
    "block",
    [*README, *API],
    ids=[*(block.name for block in README), *(f"api-{block.name}" for block in API)],
)
def test_block(reader: Reader, block: Block) -> None:
    if block.language == "bash" and "curl" in block.text and not shutil.which("curl"):
        pytest.skip("needs curl")
    reader.follow(block)


# ---- the reader fails where a document is wrong ------------------------------------------------------------
class Answers(http.server.BaseHTTPRequestHandler):
    """Answers ``/generate`` with a picture, and anything else with 404."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if self.path == "/generate" else 404)
        self.end_headers()
        picture = io.BytesIO()
        Image.new("RGB", (2, 2)).save(picture, "PNG")
        self.wfile.write(picture.getvalue())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def sample(tmp_path: Path) -> Iterator[Reader]:
    """A reader whose server is a stub."""
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Reader(tmp_path, server.server_port)
        finally:
            server.shutdown()
            thread.join()


ASK = "import urllib.request as u\nu.urlopen('http://localhost:8000{path}', data=b'1').close()"


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("json", '{"prompt": "a red apple"}'),
        ("mermaid", 'flowchart LR\nsubgraph a\nb["c"] -->|d| e\nend'),
        ("python", ASK.format(path="/generate")),
        (
            "bash",
            "git clone https://example.org/someone/star-server.git\ncd star-server\nmake serve",
        ),
        ("bash", "make test ARGS='-k scheduler'  # a few"),
        ("bash", "pip install -c constraints.txt -e '.[xformers,ray]'"),
        (
            "bash",
            "docker build --build-arg VARIANT=cpu -t star-server .\ndocker run -p 80:8000 star-server",
        ),
        ("bash", "# nothing but a comment\n"),
    ],
)
def test_what_is_right_passes(sample: Reader, language: str, text: str) -> None:
    sample.follow(Block(language, text, 1))


@pytest.mark.parametrize(
    ("language", "text", "message"),
    [
        ("json", '{"prompt": }', "Expecting value"),
        ("python", "raise SystemExit('no apple')", "no apple"),
        ("python", ASK.format(path="/nowhere"), "HTTP Error 404"),
        ("mermaid", "piechart", "no kind of diagram: 'piechart'"),
        ("mermaid", "flowchart LR\nsubgraph a\nb --> c", "never ends"),
        ("mermaid", 'flowchart LR\na["one] --> b', "never closes"),
        ("yaml", "a: 1", "no way to test a block of 'yaml'"),
        ("", "anything", "no way to test a block of ''"),
        ("bash", "wget localhost:8000", "no rule says how to test: wget"),
        ("bash", "git push", "git push is not tested"),
        ("bash", "cd elsewhere", "the only folder"),
        ("bash", "make dinner", "no target dinner"),
        ("bash", "make serve FLAGS=1", "no variable FLAGS"),
        ("bash", "pip install '.[rockets]'", "no extra {'rockets'}"),
        ("bash", "pip install -c pins.txt '.[train]'", "no file pins.txt"),
        ("bash", "docker build --build-arg COLOUR=red .", "no argument COLOUR"),
        ("bash", "docker run -p 80:80 star-server", "does not expose 80"),
        ("bash", "curl https://example.org", "localhost:8000 alone"),
        ("bash", "curl 'localhost:8000", "not a complete command"),
        ("bash", "curl --json '{}' -o a.json localhost:8000/generate", "no --json"),
        ("bash", "curl -d '{}' localhost:8000/generate", "fills the terminal"),
        ("bash", "python -m training.nothing", "no module training.nothing"),
    ],
)
def test_what_is_wrong_fails(sample: Reader, language: str, text: str, message: str) -> None:
    with pytest.raises((AssertionError, ValueError), match=re.escape(message)):
        sample.follow(Block(language, text, 1))


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_speaks_to_the_server_at_hand(sample: Reader) -> None:
    ask = "curl -d 1 \\\n  -o apple.png localhost:8000"
    sample.follow(Block("bash", f"{ask}/generate", 1))
    assert (sample.folder / "apple.png").is_file()
    with pytest.raises(AssertionError, match="404"):
        sample.follow(Block("bash", f"{ask}/nowhere", 1))


def test_a_picture_that_does_not_open_fails(sample: Reader) -> None:
    with pytest.raises(OSError, match="cannot identify image file"):
        sample.follow(Block("python", "open('apple.png', 'w').write('no picture')", 1))


MARKDOWN = """\
Some `inline` text.

```bash
make serve  # a comment
curl \\
  localhost:8000
```

1. In a list:

   ~~~json
   {"a": "```"}
   ~~~

````python
\"\"\"
```
\"\"\"
````
"""


def test_blocks_are_found() -> None:
    bash, parsed, python = read_blocks(MARKDOWN)
    assert (bash.language, bash.line, bash.name) == ("bash", 3, "bash-line-3")
    assert read_commands(bash.text) == ["make serve  # a comment", "curl \\\n  localhost:8000"]
    assert (parsed.language, parsed.text) == ("json", '{"a": "```"}')
    assert (python.language, python.text) == ("python", '"""\n```\n"""')


def test_a_fence_left_open_is_an_error() -> None:
    with pytest.raises(ValueError, match="opens at line 2 is never closed"):
        read_blocks("text\n```bash\nmake serve\n")


def test_quotes_may_span_lines() -> None:
    assert read_commands("curl -d '{\n  \"a\": 1\n}' x\n\nmake test") == [
        "curl -d '{\n  \"a\": 1\n}' x",
        "make test",
    ]
