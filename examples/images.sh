#!/bin/bash
# Makes the examples' images without Docker: images.sh [NAME]...
#
#   app-python      app-python:1, of Debian's packages python3-flask and gunicorn
#   app-php         app-php:1, of Debian's package php-cli
#   busybox         busybox:1.36, of Debian's package busybox-static
#   openbao         openbao:2.4.0, built with Go
#   agent-injector  agent-injector:1, built with Go
#
# Without a NAME it makes those that need no Go: the first build of OpenBao takes minutes.
# They are written to target/images/NAME.tar at the root, unless what is there is newer than what it is made of.
# Debian's packages are kept in ~/.cache/stead/packages, OpenBao in ~/.cache/stead/bin. Needs apt-get, and root.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/stead/packages
programs=${XDG_CACHE_HOME:-$HOME/.cache}/stead/bin

fail() {
    echo "images.sh: $*" >&2
    exit 1
}

# What packages depend on, but no program in an image does.
unneeded='dpkg|tar|perl.*|libperl.*|install-info|debconf|cdebconf|libdebian-installer.*|libnewt.*|libslang.*'
unneeded+='|libtextwrap.*|ucf|sensible-utils|psmisc|mailcap|mime-support|media-types|libjs-.*|libmagic-mgc|debianutils'

# The packages $@ and all that they depend on.
closure() {
    apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances "$@" | grep -E '^[a-z0-9]' | grep -vxE "$unneeded" | sort -u
}

# The file of the package $1, fetched unless it is there.
package() {
    local files=("$cache/$1"_*.deb)
    if [ ! -e "${files[-1]}" ]; then
        (cd "$cache" && apt-get download -qq -o APT::Sandbox::User=root "$1" >&2) || fail "cannot fetch $1"
        files=("$cache/$1"_*.deb)
    fi
    printf '%s' "${files[-1]}"
}

# Unpacks the packages $2... and all that they depend on into the folder $1, but what is only to be read by people.
unpack() {
    local root=$1 names name file
    shift
    mkdir -p "$root" "$cache"
    # Without lists of packages there is nothing to depend on.
    names=$(closure "$@" 2>/dev/null) || { apt-get update -qq >&2 && names=$(closure "$@"); } ||
        fail "no packages $*: apt-get knows none"
    for name in $names; do
        file=$(package "$name")
        dpkg-deb --fsys-tarfile "$file" | tar --extract --directory "$root" \
            --exclude='./usr/share/doc*' --exclude=./usr/share/man --exclude=./usr/share/locale \
            --exclude=./usr/share/lintian --exclude=./usr/share/info --exclude=./usr/share/i18n --exclude=./usr/lib/*/gconv
    done
}

app_python() {
    unpack "$stage" python3-flask gunicorn
    mkdir "$stage/app"
    cp examples/app-python/*.py "$stage/app"
    # Compiled once, here, rather than at each start of a container, which may not write there.
    chroot "$stage" /usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash \
        /usr/lib/python3 /usr/lib/python3.* /app
    tools/image.sh --output "$1" --tag app-python:1 --root "$stage" --workdir /app --user 1000:1000 \
        --entrypoint gunicorn --entrypoint --config --entrypoint /app/gunicorn.conf.py --entrypoint 'app:main()'
}

app_php() {
    unpack "$stage" php-cli
    # What the package's installation would do.
    ln -s "$(basename "$stage"/usr/bin/php[0-9]*)" "$stage/usr/bin/php"
    tools/image.sh --output "$1" --tag app-php:1 --root "$stage" --workdir /app --user 1000:1000 \
        --file examples/app-php/index.php:/app/index.php --stop-signal SIGINT \
        --entrypoint php --entrypoint -S --entrypoint 0.0.0.0:8000 --entrypoint /app/index.php
}

# Builds the Go program of the folder $1 as the file $2; further words are for `go build`.
go_build() {
    command -v go >/dev/null || fail "there is no Go to build $1 with: install version 1.24 or newer"
    mkdir -p "$(dirname "$2")"
    # Its checksums are in go.sum. Written aside, so that an interrupted build leaves nothing.
    CGO_ENABLED=0 go -C "$1" build -trimpath "${@:3}" -o "$(realpath "$2").new" . >&2 || fail "cannot build $1"
    mv "$2.new" "$2"
}

openbao() {
    local folder=examples/app-python-vault/openbao sum program
    # Known by what it is made of, as every checkout's files are new.
    sum=$(cat "$folder"/{main.go,go.mod,go.sum} | sha256sum)
    program=$programs/openbao-2.4.0-${sum:0:12}
    [ -x "$program" ] ||
        go_build "$folder" "$program" -ldflags='-s -w -X github.com/openbao/openbao/version.fullVersion=2.4.0'
    mkdir -p "$stage/usr/bin"
    cp "$program" "$stage/usr/bin/bao"
    # Its commands are Vault's. Vault's chart, and who is used to it, call it so.
    ln -s bao "$stage/usr/bin/vault"
    tools/image.sh --output "$1" --tag openbao:2.4.0 --root "$stage" --user 100:1000 --env HOME=/tmp \
        --entrypoint bao
}

agent_injector() {
    go_build examples/app-python-vault/injector "$stage/usr/bin/agent-injector" -ldflags='-s -w'
    tools/image.sh --output "$1" --tag agent-injector:1 --root "$stage" --user 100:1000 --entrypoint agent-injector
}

busybox() {
    tools/image.sh --output "$1" --tag busybox:1.36 --cmd sh
}

[ $# -gt 0 ] || set -- app-python app-php busybox
for name in "$@"; do
    case $name in
    app-python | app-php) sources=("examples/$name") ;;
    busybox) sources=(/bin/busybox) ;;
    openbao | agent-injector) sources=("examples/app-python-vault/${name#agent-}") ;;
    *) fail "there is no image $name" ;;
    esac
    output=target/images/$name.tar
    if [ ! -e "$output" ] || [ -n "$(find "${sources[@]}" examples/images.sh tools/image.sh -newer "$output")" ]; then
        stage=$(mktemp --directory)
        chmod 755 "$stage"
        trap 'rm -rf "$stage"' EXIT
        "${name//-/_}" "$output"
        rm -rf "$stage"
    fi
    echo "$output"
done
