"""docs/structure.md has every module exactly once, and names nothing that does not exist."""

import re
import subprocess
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "structure.md"
PACKAGE = ("modeling_gr4ad", "tokenization", "trainers", "serving", "src/gr4ad")
LISTED = (*PACKAGE, "benchmarks/measurement", "benchmarks/opponents")


def listed_modules() -> Counter[str]:
    """Path -> how often a table of the page has it; a table's rows are files of the folder in the heading above."""
    folder, found = "", Counter[str]()
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"### `(\S+/)`", line):
            folder = heading[1]
            found[folder] += 1
        elif row := re.match(r"\| `(\S+\.py)` \| \S", line):
            found[folder + row[1]] += 1
    return found


def modules() -> set[str]:
    """Modules of the checkout; a package's `__init__.py` stands as its folder."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *LISTED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    there = [path for path in done.stdout.split() if path.endswith(".py") and (ROOT / path).exists()]
    return {path.removesuffix("__init__.py") for path in there}


def test_every_module_is_listed_exactly_once():
    listed = listed_modules()
    assert {path: count for path, count in listed.items() if count > 1} == {}
    assert set(listed) == modules()


def test_every_path_of_the_page_exists():
    named = set(re.findall(r"`([\w./-]+/[\w.-]*)`", PAGE.read_text(encoding="utf-8")))
    files = {path for path in named if path.endswith((".py", "/"))}
    assert len(files) > len(PACKAGE)
    assert [path for path in sorted(files) if not (ROOT / path).exists()] == []
