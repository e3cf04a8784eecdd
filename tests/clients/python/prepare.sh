#!/bin/bash
# Installs Python's client in an environment of its own, in a folder, where it is not there yet.
set -euo pipefail
dir=$1
wanted=$(dirname "$0")/requirements.txt
if cmp --silent "$wanted" "$dir/requirements.txt" && "$dir/bin/python" -c 'import kubernetes' 2>/dev/null; then
    exit
fi
python3 -c 'import ensurepip' 2>/dev/null || {
    echo "This Python makes no environments: install Debian's python3-venv" >&2
    exit 1
}
echo "installing $(cat "$wanted")"
rm -rf "$dir"
python3 -m venv "$dir"
"$dir/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted"
cp "$wanted" "$dir"
