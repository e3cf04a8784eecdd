#!/bin/bash
# Makes a container image from files of this machine, without Docker: a docker-archive with one layer,
# as `docker save` writes it. The same arguments and files give the same bytes.
set -euo pipefail

usage() {
    cat <<'END'
usage: image.sh --output FILE --tag NAME:TAG [option]...

  --output FILE             where to write the image
  --tag NAME:TAG            its name; may be given several times
  --entrypoint ARG          one word of the command; may be given several times
  --cmd ARG                 one word of the default arguments; may be given several times
  --env NAME=VALUE          may be given several times
  --user USER[:GROUP]       who the command runs as (default root)
  --workdir DIR             where it runs (default /)
  --stop-signal SIGNAL      what asks it to end (default SIGTERM)
  --root DIR                a folder whose contents to put in, with their modes; may be given several times
  --file SOURCE:DEST[:MODE] a file to put in, with an octal mode (default 644); may be given several times
  --no-busybox              leave out busybox and its commands (sh, cat, ls, ...)

The image has /bin/busybox from Debian's package busybox-static, its commands as links in /bin,
/etc/passwd and /etc/group (root, nobody, and web with uid 1000), /root and /tmp.
END
}

fail() {
    echo "image.sh: $*" >&2
    exit 1
}

commands=('[' awk base64 basename cat chgrp chmod chown cp cut date dd df dirname du echo env expr false find grep
    head hostname httpd id ip kill ln ls md5sum mkdir mktemp mount mv nc nslookup od ping printf ps pwd
    readlink rm rmdir sed seq sh sha256sum sleep sort stat stty sync tail tar tee test timeout top touch tr true
    tty umount uname uniq vi wc wget which whoami xargs yes)

# A text as JSON.
json() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    text=${text//$'\t'/\\t}
    printf '"%s"' "$text"
}

# All arguments as a JSON array.
json_array() {
    local separator='' item
    printf '['
    for item in "$@"; do
        printf '%s' "$separator"
        json "$item"
        separator=,
    done
    printf ']'
}

# A tar archive of the directory $1 that depends on nothing but its contents. Further arguments name entries.
archive() {
    local dir=$1
    shift
    tar --create --directory "$dir" --format=ustar --sort=name --mtime=@1700000000 \
        --owner=0 --group=0 --numeric-owner "$@"
}

digest() {
    local sum
    sum=$(sha256sum <"$1")
    printf '%s' "${sum%% *}"
}

output='' user='' workdir='' stop_signal='' busybox=/bin/busybox
tags=() entrypoint=() cmd=() env=(PATH=/usr/local/bin:/usr/bin:/bin) roots=() files=()
while [ $# -gt 0 ]; do
    case $1 in
    --no-busybox) busybox='' && shift && continue ;;
    --help | -h) usage && exit ;;
    esac
    [ $# -ge 2 ] || fail "$1 needs a value; see image.sh --help"
    case $1 in
    --output) output=$2 ;;
    --tag) tags+=("$2") ;;
    --entrypoint) entrypoint+=("$2") ;;
    --cmd) cmd+=("$2") ;;
    --env) env+=("$2") ;;
    --user) user=$2 ;;
    --workdir) workdir=$2 ;;
    --stop-signal) stop_signal=$2 ;;
    --root) roots+=("$2") ;;
    --file) files+=("$2") ;;
    *) fail "unknown option $1; see image.sh --help" ;;
    esac
    shift 2
done
[ -n "$output" ] || fail 'where to? --output is missing'
[ ${#tags[@]} -gt 0 ] || fail 'what is it called? --tag is missing'

stage=$(mktemp --directory)
trap 'rm -rf "$stage"' EXIT
root=$stage/root
umask 022
mkdir -p "$root/bin" "$root/etc" "$root/root" "$root/tmp"
chmod 700 "$root/root"
chmod 1777 "$root/tmp"
cat >"$root/etc/passwd" <<'END'
root:x:0:0:root:/root:/bin/sh
web:x:1000:1000:web:/tmp:/bin/sh
nobody:x:65534:65534:nobody:/tmp:/bin/sh
END
cat >"$root/etc/group" <<'END'
root:x:0:
web:x:1000:
nogroup:x:65534:
END
if [ -n "$busybox" ]; then
    [ -x "$busybox" ] || fail "$busybox is missing; install Debian's package busybox-static"
    # Anything else would need libraries that the image lacks.
    ! ldd "$busybox" >/dev/null 2>&1 || fail "$busybox is not static; install Debian's package busybox-static"
    cp "$busybox" "$root/bin/busybox"
    chmod 755 "$root/bin/busybox"
    for command in "${commands[@]}"; do
        ln -s busybox "$root/bin/$command"
    done
fi
for dir in "${roots[@]}"; do
    [ -d "$dir" ] || fail "no folder $dir"
    # A command of its own takes the place of busybox's link; it is not written through it.
    cp --archive --no-preserve=ownership --remove-destination "$dir/." "$root"
done
for file in "${files[@]}"; do
    IFS=: read -r source dest mode <<<"$file"
    [ -f "$source" ] || fail "no file $source"
    mkdir -p "$root/$(dirname "$dest")"
    cp --dereference "$source" "$root/$dest"
    chmod "${mode:-644}" "$root/$dest"
done

image=$stage/image
mkdir "$image"
archive "$root" --file "$stage/layer.tar" .
layer=$(digest "$stage/layer.tar")
mkdir "$image/$layer"
mv "$stage/layer.tar" "$image/$layer/layer.tar"

case $(uname -m) in
x86_64) architecture=amd64 ;;
aarch64) architecture=arm64 ;;
*) architecture=$(uname -m) ;;
esac
{
    printf '{"architecture":"%s","os":"linux","created":"2023-11-14T22:13:20Z","config":{' "$architecture"
    printf '"Env":%s' "$(json_array "${env[@]}")"
    [ ${#entrypoint[@]} -eq 0 ] || printf ',"Entrypoint":%s' "$(json_array "${entrypoint[@]}")"
    [ ${#cmd[@]} -eq 0 ] || printf ',"Cmd":%s' "$(json_array "${cmd[@]}")"
    [ -z "$user" ] || printf ',"User":%s' "$(json "$user")"
    [ -z "$workdir" ] || printf ',"WorkingDir":%s' "$(json "$workdir")"
    [ -z "$stop_signal" ] || printf ',"StopSignal":%s' "$(json "$stop_signal")"
    printf '},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},' "$layer"
    printf '"history":[{"created":"2023-11-14T22:13:20Z","created_by":"image.sh"}]}'
} >"$stage/config.json"
config=$(digest "$stage/config.json").json
mv "$stage/config.json" "$image/$config"
printf '[{"Config":"%s","RepoTags":%s,"Layers":["%s/layer.tar"]}]' \
    "$config" "$(json_array "${tags[@]}")" "$layer" >"$image/manifest.json"

mkdir -p "$(dirname "$output")"
# Written aside, so that an interrupted run leaves no half of an image.
archive "$image" --file "$output.new" "$config" "$layer" manifest.json
mv "$output.new" "$output"
