#!/usr/bin/env bash
# Runs a command, `make test` unless another is given, on a Python that Debian sid has: PYTHON, or
# python3.14. `make test-newer-python NEWER=python3.15` picks one.
#
# The checkout is mounted into a root of its own, with a virtual environment and a build folder for
# each Python over .venv and target. All of it is in .newer-python; the mounts end with the command.
set -euo pipefail
cd "$(dirname "$0")/.."

export PYTHON=${PYTHON:-python3.14}
home=$PWD/.newer-python
root=$home/root
cargo=${CARGO_HOME:-$HOME/.cargo}
rustup=${RUSTUP_HOME:-$HOME/.rustup}

# Makes the root, once, and installs the Python in it.
make_root() {
	if [[ ! -e $home/made ]]; then
		rm -rf "$root"
		debootstrap --variant=minbase --include=make,gcc,libc6-dev,ca-certificates sid "$root"
		touch "$home/made"
	fi
	[[ -e $root/usr/bin/$PYTHON ]] ||
		chroot "$root" apt-get install --yes --no-install-recommends "$PYTHON-dev" "$PYTHON-venv"
}

# Shows in the root what is at a path outside.
show() {
	for path; do
		[[ -e $path ]] || continue
		if [[ -d $path ]]; then mkdir -p "$root$path"; else touch "$root$path"; fi
		mount --rbind "$path" "$root$path"
	done
}

if [[ ${1-} != --mounted ]]; then
	if ! { [[ $(id -u) == 0 ]] && command -v debootstrap && unshare --mount true; } >/dev/null; then
		echo "This needs root, debootstrap, and the right to mount (unshare --mount)." >&2
		exit 1
	fi
	mkdir -p "$home/$PYTHON"/{venv,target} .venv target
	make_root
	exec unshare --mount tools/newer_python.sh --mounted "$@"
fi
shift
show "$PWD" /proc /dev /etc/hosts /etc/resolv.conf /etc/pip.conf /etc/ssl/certs "$cargo" "$rustup"
mount --bind "$home/$PYTHON/venv" "$root$PWD/.venv"
mount --bind "$home/$PYTHON/target" "$root$PWD/target"
[[ $# -gt 0 ]] || set -- make test
export PATH="$cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin"
exec chroot "$root" bash -c 'cd "$0" && exec "$@"' "$PWD" "$@"
