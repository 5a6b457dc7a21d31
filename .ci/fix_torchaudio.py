"""Make torchaudio importable beside a CPU build of torch. Run after it was installed.

The package index's torchaudio is a CUDA build: its compiled parts can't load without CUDA, the import fails, and
with it transformers and sentence-transformers, which import torchaudio where it is present. Its Python parts are
all that the speech backends use, so the compiled ones go.
"""

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    spec = importlib.util.find_spec("torchaudio")
    if spec is None or spec.origin is None:
        sys.exit("torchaudio is not installed here")
    try:
        import torchaudio  # noqa: F401
    except OSError:
        for library in (Path(spec.origin).parent / "lib").glob("*.so"):
            library.unlink()
            print(f"removed {library}: a CUDA build, and this torch has no CUDA")


if __name__ == "__main__":
    main()
