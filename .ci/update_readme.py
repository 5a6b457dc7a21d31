"""Put the table of settings into README.md, between its two marks."""

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from api.settings import table  # noqa: E402


def main() -> None:
    readme = PROJECT / "README.md"
    marked = re.compile(r"(?<=<!-- settings -->\n).*(?=<!-- /settings -->)", re.DOTALL)
    readme.write_text(marked.sub(lambda _: f"{table()}\n", readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
