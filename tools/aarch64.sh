#!/usr/bin/env bash
# Runs the wheel for aarch64 here: Debian's Python of that processor reads a stream under qemu, and
# then runs the tests that are named, or a part of the core's. It takes ten times as long as here.
# `make test-aarch64 TESTS=tests/core/test_json.py` names some; PYTHON is Debian's, or python3.11.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3.11}
home=$PWD/.aarch64
root=$home/root site=$home/site
target=aarch64-unknown-linux-gnu
[[ $# -gt 0 ]] || set -- tests/core/test_wire.py tests/core/test_event.py

if ! command -v qemu-aarch64-static >/dev/null || ! rustup target list --installed | grep -q $target; then
	echo "This needs qemu-user-static, and rustup target add $target." >&2
	exit 1
fi

# Debian's packages for the other processor, with an apt of their own, into a folder.
if [[ ! -e $home/made ]]; then
	rm -rf "$home"
	mkdir -p "$home"/apt/{lists,archives}/partial "$root"
	options=(-qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root
		-o "Dir::State::lists=$home/apt/lists" -o Dir::State::status=/dev/null
		-o "Dir::Cache::archives=$home/apt/archives"
		-o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)
	apt-get "${options[@]}" update
	apt-get "${options[@]}" install --download-only --yes --no-install-recommends "$python"
	for package in "$home"/apt/archives/*.deb; do dpkg -x "$package" "$root"; done
	touch "$home/made"
fi

PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -m maturin build --quiet --release --locked --zig \
	--target $target --compatibility manylinux2014 --interpreter "$python" --out "$home/wheels"

# What the tests of the core import, for that processor.
tags=()
for glibc in manylinux2014 manylinux_2_17 manylinux_2_28; do tags+=(--platform "${glibc}_aarch64"); done
.venv/bin/python -m pip install --quiet --upgrade --target "$site" --only-binary=:all: "${tags[@]}" \
	--python-version "${python#python}" \
	"$home"/wheels/*.whl async-timeout fastapi hiredis httpx httpx-sse httpx2 hypothesis orjson psutil \
	pytest pytest-timeout redis trio uvicorn uvloop

run() {
	PYTHONPATH=$site qemu-aarch64-static -L "$root" "$root/usr/bin/$python" "$@"
}
run - <<-'END'
	import platform
	import sserpent
	from fastapi import FastAPI
	from fastapi.testclient import TestClient

	app = FastAPI()

	@app.get("/", response_class=sserpent.EventSourceResponse)
	async def numbers():
	    yield 1

	assert TestClient(app).get("/").text == "data: 1\n\n"
	assert sserpent.BACKEND == "rust"
	print(f"a stream on {platform.machine()}, with the compiled core")
END
run -m pytest -q -p no:cacheprovider "$@"
