"""Scripts as somebody without kdnas runs them: in processes that have transformers loaded, and nothing of ours.

One process loads torch and transformers, which takes seconds, and forks a child for each script. Run as a file this is
that process: it reads one request a line, and answers with the child's exit code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any


class Outside:
    """Starts the process when it is first needed; `folder` takes its files and what transformers keeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def run(self, code: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`python -c code arguments` in the folder, without network: how it ended and what it wrote."""
        if self.process is None:
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            environment |= {"HF_HOME": str(self.folder / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(
                [sys.executable, "-P", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=self.folder,
                env=environment,
            )
        out, err = self.folder / "out", self.folder / "err"
        asked = {"code": code, "folder": str(folder), "arguments": arguments, "out": str(out), "err": str(err)}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        ended = int(self.process.stdout.readline())
        return subprocess.CompletedProcess(code, ended, out.read_text(), err.read_text())

    def close(self) -> None:
        if self.process is not None:
            self.process.communicate()  # it ends with its input


def serve() -> None:
    from transformers import AutoTokenizer, BertModel

    assert AutoTokenizer and BertModel  # the class of a model loads all that models share, those of any kind do not
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            script(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def script(code: str, folder: str, arguments: list[str], out: str, err: str) -> None:
    """In the child: run the code and end, as the interpreter would."""
    ended: Any = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
        os.chdir(folder)
        sys.argv = ["-c", *arguments]
        exec(compile(code, "<script>", "exec"), {"__name__": "__main__"})
        ended = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended)


if __name__ == "__main__":
    serve()
