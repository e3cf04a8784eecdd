#!/bin/bash
# Installs JavaScript's client into a folder, where it is not there yet, and puts the tests beside it, where they find it.
set -euo pipefail
dir=$1
cd "$(dirname "$0")"
# npm makes the second at its end.
if ! cmp --silent package-lock.json "$dir/package-lock.json" || [ ! -e "$dir/node_modules/.package-lock.json" ]; then
    echo "installing $(grep client-node package.json | tr -d ' ')"
    rm -rf "$dir"
    mkdir -p "$dir"
    cp package.json package-lock.json "$dir"
    (cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel error)
fi
rm -f "$dir"/*.mjs
cp ./*.mjs "$dir"
