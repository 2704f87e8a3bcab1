"""Checks that a directory holds exactly the files of a release, and that its tag names the version.

Called as `check_release.py DIRECTORY TAG` by .github/workflows/release.yml.
"""

import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pure_wheel

PYTHONS = [
    *(f"cp3{minor}-cp3{minor}" for minor in range(10, 16)),
    "cp314-cp314t",
    "cp315-cp315t",
]
PLATFORMS = [
    "manylinux*_x86_64",
    "manylinux*_aarch64",
    "musllinux*_x86_64",
    "musllinux*_aarch64",
    "macosx*_x86_64",
    "macosx*_arm64",
    "win_amd64",
]


def expected() -> list[str]:
    """One pattern for each file."""
    native = [f"sserpent-*-{python}-{platform}.whl" for python in PYTHONS for platform in PLATFORMS]
    return ["sserpent-*.tar.gz", "sserpent-*-py3-none-any.whl", *native]


def problems(names: list[str], tag: str) -> list[str]:
    found = []
    if tag != f"v{pure_wheel.cargo_version()}":
        found.append(f"the tag is {tag}, the version {pure_wheel.cargo_version()}")
    patterns = expected()
    for pattern in patterns:
        matches = [name for name in names if fnmatchcase(name, pattern)]
        if len(matches) != 1:
            found.append(f"{pattern}: {len(matches)} files, not one")
    found += [
        f"{name}: not expected"
        for name in names
        if not any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    versions = {name.removesuffix(".tar.gz").split("-")[1] for name in names if "-" in name}
    if len(versions) != 1:
        found.append(f"the files are of the versions {sorted(versions)}")
    return found


if __name__ == "__main__":
    names = [path.name for path in Path(sys.argv[1]).iterdir()]
    sys.exit("\n".join(problems(names, sys.argv[2])) or 0)
