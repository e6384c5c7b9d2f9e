#!/bin/sh
# Installs `loom` to ~/.local/bin, or below --prefix. Run again to update.
set -eu

usage() {
    cat >&2 <<'TEXT'
usage: ./install.sh [--prefix DIR] [--binary FILE]

  --prefix DIR    install to DIR/bin (default: ~/.local)
  --binary FILE   install this binary instead of building one
TEXT
    exit 2
}

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
prefix=${HOME:?}/.local
binary=
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) [ $# -ge 2 ] || usage; prefix=$2; shift 2 ;;
        --prefix=*) prefix=${1#*=}; shift ;;
        --binary) [ $# -ge 2 ] || usage; binary=$2; shift 2 ;;
        --binary=*) binary=${1#*=}; shift ;;
        *) usage ;;
    esac
done

if [ -z "$binary" ]; then
    command -v cargo >/dev/null 2>&1 || {
        echo "install.sh: cargo is missing: install Rust (https://rustup.rs), or give --binary FILE" >&2
        exit 1
    }
    # A C library to link into the program is not everywhere (on Fedora: glibc-static).
    if [ "$(uname -s)" = Linux ] && ! printf 'int main(void) { return 0; }' | cc -static -x c -o /dev/null - 2>/dev/null; then
        echo "install.sh: no static C library: the program will load the machine's own" >&2
        export RUSTFLAGS=
    fi
    (cd "$here" && cargo build --release --locked)
    target=$(cd "$here" && cargo metadata --format-version 1 --no-deps --offline |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    binary=$target/$(rustc -vV | sed -n 's/^host: //p')/release/loom
fi
[ -x "$binary" ] || { echo "install.sh: $binary is not a program" >&2; exit 1; }

new=$("$binary" --version)
to=$prefix/bin/loom
if [ -x "$to" ] && cmp -s "$binary" "$to"; then
    echo "$to is $new already: nothing changed"
else
    old=
    [ -x "$to" ] && old=$("$to" --version 2>/dev/null || true)
    mkdir -p "$prefix/bin"
    # Beside its place and then renamed: sessions that run the old one keep it.
    temporary=$to.new.$$
    trap 'rm -f "$temporary"' EXIT
    cp "$binary" "$temporary"
    chmod 755 "$temporary"
    mv -f "$temporary" "$to"
    if [ -n "$old" ]; then
        echo "installed $new to $to (was $old)"
    else
        echo "installed $new to $to"
    fi
fi
case :$PATH: in
    *:"$prefix/bin":*) ;;
    *) echo "note: $prefix/bin is not in PATH; add to your shell's profile:  export PATH=\"$prefix/bin:\$PATH\"" ;;
esac
command -v git >/dev/null 2>&1 || echo "note: loom needs git 2.38 or newer"
echo "Next: loom demo"
