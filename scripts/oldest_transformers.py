"""The tests of models and exports on the oldest transformers that pyproject.toml allows, which is put beside yours.

    python scripts/oldest_transformers.py [VERSION] [FILES OR FOLDERS OF TESTS]

pip installs that version and what only it needs into runs/transformers-VERSION, once, which comes before the packages
of the environment that runs the script. What newer versions alone can read or build is skipped there, and says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = "5.0.0"
NEEDS = ("huggingface_hub>=1.3,<2", "httpx", "tokenizers>=0.22,<=0.23.0")
TESTS = ("tests/models", "tests/formats")


def environment(version: str) -> Path:
    """The folder with that version, filled where it is not there."""
    folder = ROOT / "runs" / f"transformers-{version}"
    if not (folder / f"transformers-{version}.dist-info").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
        subprocess.run([*pip, "--no-deps", f"transformers=={version}", *NEEDS[2:]], check=True)
        subprocess.run([*pip, *NEEDS[:2]], check=True)
    return folder


def main(arguments: list[str]) -> int:
    """Run the tests; pytest's exit code."""
    version, *tests = arguments or [OLDEST]
    paths = [str(environment(version)), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    own = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(tests or TESTS)]
    return subprocess.run(command, cwd=ROOT, env=own, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
