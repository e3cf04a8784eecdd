#!/bin/sh
# Makes the image visits:1 as a docker-archive: image.sh [OUTPUT [BINARY]]
# OUTPUT is target/visits.tar and BINARY target/release/visits at the root, unless given.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
exec "$root/tools/image.sh" \
    --output "${1:-$root/target/visits.tar}" \
    --tag visits:1 \
    --file "${2:-$root/target/release/visits}:/bin/visits:755" \
    --entrypoint /bin/visits
