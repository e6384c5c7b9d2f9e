#!/bin/sh
# Installs what the tests need where it is missing, and runs them all.
#
#   ./test.sh            everything
#   ./test.sh ARGUMENT…  only `cargo nextest run ARGUMENT…`
#
# On Debian and its kin, as root or with sudo, missing programs come from apt-get.
# On other systems this says what to install.
set -eu
cd "$(dirname "$0")"

say() { printf '\n==> %s\n' "$*" >&2; }
die() { printf 'test.sh: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

has cargo || die "cargo is missing: install Rust first (https://rustup.rs)"
has git || die "git is missing: install git 2.38 or newer first"

# program:package; npm brings node.
missing=
for pair in cc:gcc tmux:tmux node:nodejs npm:npm strace:strace mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs xfs_io:xfsprogs bwrap:bubblewrap socat:socat xterm:xterm Xvfb:xvfb curl:curl script:bsdutils; do
    has "${pair%%:*}" || missing="$missing ${pair##*:}"
done
if [ -n "$missing" ]; then
    say "installing$missing"
    has apt-get || die "please install:$missing"
    root=
    if [ "$(id -u)" -ne 0 ]; then
        has sudo || die "please install, as root: apt-get install$missing"
        root=sudo
    fi
    $root apt-get update -qq
    # shellcheck disable=SC2086 # one word a package
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
for component in rustfmt clippy; do
    cargo "$(echo $component | sed 's/rustfmt/fmt/')" --version >/dev/null 2>&1 || rustup component add "$component"
done
if ! cargo nextest --version >/dev/null 2>&1; then
    say "building cargo-nextest, which runs the tests (once)"
    cargo install cargo-nextest --locked
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
fi

if [ $# -gt 0 ]; then
    exec cargo nextest run "$@"
fi
say "format"
cargo fmt --check
say "lints"
cargo clippy --all-targets -- -D warnings
say "tests"
rm -rf target/tmp/not-run target/*/tmp/not-run
cargo nextest run
say "examples in the documentation"
cargo test --doc --quiet
not_run=$(find target -path '*/tmp/not-run/*' -type f 2>/dev/null || true)
if [ -n "$not_run" ]; then
    say "NOT RUN for want of rights: $(echo "$not_run" | wc -l)"
    echo "$not_run" | xargs cat >&2
    say "all others passed"
    exit 0
fi
say "all passed"
