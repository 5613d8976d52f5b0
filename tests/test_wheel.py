"""What `pip install` brings must be what a checkout has: every module and every data file, by their own names."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINKED = ("modeling_gr4ad", "tokenization", "trainers", "serving", "model_cards", "recipes")


def tracked(*patterns: str) -> set[str]:
    done = subprocess.run(["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def in_package(path: str) -> str | None:
    """Where a tracked file lies in the package; None for what is not part of it."""
    if path.startswith("src/"):
        return path.removeprefix("src/")
    return f"gr4ad/{path}" if path.split("/")[0] in LINKED else None


def test_the_root_folders_are_links_of_the_package():
    for name in LINKED:
        link = ROOT / "src" / "gr4ad" / name
        assert link.is_symlink() and link.resolve() == ROOT / name, name


def test_the_wheel_holds_every_module_and_data_file(tmp_path):
    checkout = tmp_path / "checkout"  # a copy: a build folder of an earlier wheel would be packed again
    for path in tracked():
        if (ROOT / path).exists():
            (checkout / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, checkout / path, follow_symlinks=False)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(checkout)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("gr4ad-")}
    links = {f"gr4ad/{name}" for name in LINKED}
    there = [path for path in tracked() if (ROOT / path).exists()]
    wanted = {place for path in there if (place := in_package(path)) is not None} - links
    assert held == wanted

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for target in scripts.values():
        assert target.split(":")[0].replace(".", "/") + ".py" in held
