#!/bin/bash
# Builds the program of tests of client-go, into a folder.
set -euo pipefail
dir=$1
command -v go >/dev/null || {
    echo "There is no Go: install Debian's golang" >&2
    exit 1
}
mkdir -p "$dir"
CGO_ENABLED=0 go -C "$(dirname "$0")" test -c -o "$dir/suite" .
