#!/bin/sh
# Make the virtual environment VENV ready for this checkout; a second run with nothing changed returns at once.
# Usage: scripts/setup.sh [--display] [VENV [dependency group ...]]
#   --display    install the system libraries that a Qt window on a virtual display needs; alone, nothing else is done
# Environment:
#   PYTHON       the interpreter to build VENV with (default: the first Python 3.11 or newer that is found)
#   CONSTRAINTS  file of pinned versions (default: constraints/dev.txt)
#   TORCH        requirement for torch where CONSTRAINTS does not pin it, such as torch==2.4.0
#   TORCH_INDEX  address of an extra package index, for example one that holds torch for the CPU
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

display=no
if [ "${1:-}" = --display ]; then
    display=yes
    shift
fi
venv=${1:-}
[ $# -eq 0 ] || shift
constraints=${CONSTRAINTS:-constraints/dev.txt}

# Shared library and the Debian package that has it: what Qt's xcb plugin, vispy and Mesa load.
libraries='
libEGL.so.1 libegl1
libGL.so.1 libgl1
libX11.so.6 libx11-6
libX11-xcb.so.1 libx11-xcb1
libdbus-1.so.3 libdbus-1-3
libfontconfig.so.1 libfontconfig1
libfreetype.so.6 libfreetype6
libglib-2.0.so.0 libglib2.0-0
libgssapi_krb5.so.2 libgssapi-krb5-2
libxcb-cursor.so.0 libxcb-cursor0
libxcb-glx.so.0 libxcb-glx0
libxcb-icccm.so.4 libxcb-icccm4
libxcb-image.so.0 libxcb-image0
libxcb-keysyms.so.1 libxcb-keysyms1
libxcb-randr.so.0 libxcb-randr0
libxcb-render-util.so.0 libxcb-render-util0
libxcb-shape.so.0 libxcb-shape0
libxcb-shm.so.0 libxcb-shm0
libxcb-sync.so.1 libxcb-sync1
libxcb-xfixes.so.0 libxcb-xfixes0
libxcb-xkb.so.1 libxcb-xkb1
libxkbcommon.so.0 libxkbcommon0
libxkbcommon-x11.so.0 libxkbcommon-x11-0
'

missing_packages() {
    known=$(PATH="$PATH:/usr/sbin:/sbin" ldconfig -p 2>/dev/null || true)
    printf '%s' "$libraries" | while read -r library package; do
        [ -n "$library" ] || continue
        case $known in *"$library "*) ;; *) printf '%s ' "$package" ;; esac
    done
    command -v Xvfb >/dev/null 2>&1 || printf 'xvfb '
    # The software renderer has another file name in every Mesa, so its folder is looked at.
    [ -n "$(find /usr/lib /usr/lib64 -maxdepth 3 -path '*/dri/*swrast_dri.so' 2>/dev/null | head -n 1)" ] ||
        printf 'libgl1-mesa-dri '
}

install_packages() { # the packages as one string
    if ! command -v apt-get >/dev/null 2>&1; then
        fail "These Debian packages, or what your system calls them, are needed: $1- install them and run this again."
    elif [ "$(id -u)" -ne 0 ]; then
        fail "System packages are missing; install them and run this again: sudo apt-get install --no-install-recommends $1"
    fi
    say "Installing system packages: $1"
    apt-get update -q >/dev/null
    # shellcheck disable=SC2086  # one word a package
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $1 >/dev/null
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed${PYTHON:+, and PYTHON=$PYTHON is not}; install one and name it, as in: make demo PYTHON=python3.12"
}

fingerprint() { # of everything that decides what is installed
    cat pyproject.toml hatch_build.py "$constraints" | cksum
    printf '%s\n' "$PWD" "${TORCH:-}" "$@"
}

if [ "$display" = yes ] && [ "$(uname -s)" = Linux ]; then
    packages=$(missing_packages)
    [ -z "$packages" ] || install_packages "$packages"
fi
[ -n "$venv" ] || exit 0

stamp=$venv/.ready-$(printf '%s' "${*:-run}" | tr ' ' '-')
wanted=$(fingerprint "$@")
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip, venv' 2>/dev/null || install_packages "python$version-venv"
    say "Creating the virtual environment $venv with Python $version"
    "$python" -m venv --clear "$venv"
fi
say "Installing napari-zeroseg and what it needs into $venv (a few minutes the first time)"
"$venv/bin/python" -m pip install -q "pip>=25.1" # the first with --group
words=
for group in "$@"; do
    [ "$group" != test ] || words=yes
    set -- "$@" --group "$group"
    shift
done
"$venv/bin/python" -m pip install -q ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
    -c "$constraints" ${TORCH:+"$TORCH"} -e '.[all]' "$@"
# For the tests alone, without what they depend on: CLIP's list of words (it would bring torchvision), and losses to
# compare ours with (each version of MONAI asks for another range of torch).
[ -z "$words" ] || "$venv/bin/python" -m pip install -q --no-deps clip-anytorch==2.6.0 monai==1.6.1
printf '%s\n' "$wanted" >"$stamp"
