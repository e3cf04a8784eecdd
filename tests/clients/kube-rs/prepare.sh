#!/bin/bash
# Builds the tests that kube-rs's crates have in themselves, into a folder: of the version that stead is built on, as
# published. Only what the tests need of `kube`, which publishing leaves out, is added.
set -euo pipefail
dir=$1
cd "$(dirname "$0")"

crates=(kube kube-client kube-runtime)
metadata=$(cargo metadata --format-version 1 --manifest-path ../../../Cargo.toml)
sources=()
for crate in "${crates[@]}"; do
    manifest=$(grep -o "\"manifest_path\":\"[^\"]*/$crate-[0-9][^\"/]*/Cargo.toml\"" <<<"$metadata" | cut -d'"' -f4)
    sources+=("$(dirname "$manifest")")
done

# Copied only when something is another, as cargo builds anew what is newer.
stamp=$(printf '%s\n' "${sources[@]}"; cat Cargo.toml Cargo.lock prepare.sh)
if [ "$(cat "$dir/stamp" 2>/dev/null)" != "$stamp" ]; then
    rm -rf "$dir"
    mkdir -p "$dir"
    for i in "${!crates[@]}"; do
        cp -r "${sources[$i]}" "$dir/${crates[$i]}"
    done
    printf '\n[dev-dependencies.kube]\npath = "../kube"\nfeatures = ["derive", "client", "ws"]\n' >>"$dir/kube-client/Cargo.toml"
    printf '\n[dev-dependencies.kube]\npath = "../kube"\nfeatures = ["derive", "client", "runtime"]\n' >>"$dir/kube-runtime/Cargo.toml"
    cp Cargo.toml Cargo.lock "$dir"
    printf '%s\n' "$stamp" >"$dir/stamp"
fi

cd "$dir"
built=$(cargo test --lib --no-run --message-format json-render-diagnostics --package kube --package kube-client \
    --package kube-runtime --features kube/derive,kube/runtime,kube-client/rustls-tls,kube-client/ws,kube-client/jsonpatch)
for program in $(grep -o '"executable":"[^"]*"' <<<"$built" | cut -d'"' -f4); do
    name=$(basename "$program")
    name=${name%-*}
    ln -sfn "$program" "${name//_/-}.tests"
done
