#!/bin/bash
# Shows what stead does: three replicas, each with its own name, address and disk. What `make demo` runs.
#
# STEAD    the program (default target/release/stead at the root)
# KUBECTL  kubectl (default kubectl)
# IMAGE    the example's image (default target/visits.tar at the root)
#
# It can be run again, and goes on with what is there. Ends with 1 if anything is not as it says.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
STEAD=${STEAD:-$root/target/release/stead}
KUBECTL=${KUBECTL:-kubectl}
IMAGE=${IMAGE:-$root/target/visits.tar}
MANIFEST=$here/manifest.yaml
PODS='visits-0 visits-1 visits-2'

if [ -t 1 ]; then
    bold=$'\e[1m' green=$'\e[32m' plain=$'\e[0m'
else
    bold='' green='' plain=''
fi

heading() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
note() { printf '%s\n' "$*"; }
ok() { printf '%s   ok: %s%s\n' "$green" "$*" "$plain"; }
fail() {
    printf '\ndemo: %s\n' "$*" >&2
    printf 'The cluster is left as it is, to be looked at: %s status, %s logs\n' "$STEAD" "$STEAD" >&2
    exit 1
}
trap 'fail "the command in line $LINENO failed"' ERR

# Shows a command as one would type it, and runs it. Paths and programs are shown short.
run() {
    printf '%s$' "$bold"
    local word
    for word in "$@"; do
        case $word in
        "$STEAD") word=stead ;;
        "$KUBECTL") word=kubectl ;;
        "$root"/*) word=${word#"$root"/} ;;
        *[\ \;\$]*) word="'$word'" ;;
        esac
        printf ' %s' "$word"
    done
    printf '%s\n' "$plain"
    "$@"
}

# The number of visits on a pod's disk.
count() { "$KUBECTL" exec "pod/$1" -- cat /data/visits | wc -l; }

counts() {
    local pod separator=''
    for pod in $PODS; do
        printf '%s%s' "$separator" "$(count "$pod")"
        separator=' '
    done
}

# What identifies the pods and their containers, and how often these were restarted.
identities() {
    "$KUBECTL" get pods -l app=visits --sort-by=.metadata.name -o \
        'jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}{"\n"}{end}'
}

server_pid() { "$STEAD" status --output json | tr -d ' \n' | sed 's/.*"server":{[^}]*"pid":\([0-9]*\).*/\1/'; }

[ "$(id -u)" = 0 ] || fail 'run it as root: stead makes containers and network links'
[ -x "$STEAD" ] || fail "no $STEAD: run make build"
[ -f "$IMAGE" ] || fail "no $IMAGE: run make demo, or examples/visits/image.sh"
command -v "$KUBECTL" >/dev/null || fail "no $KUBECTL: see https://kubernetes.io/docs/tasks/tools/"

heading 'A cluster'
run "$STEAD" up --detach
run "$KUBECTL" get nodes

heading 'An image: made here, and loaded without a registry'
run "$STEAD" image load "$IMAGE"

heading 'Three replicas'
run "$KUBECTL" apply -f "$MANIFEST"
run "$KUBECTL" rollout status statefulset/visits --timeout=120s

heading 'Visitors: the service gives each of them to one of the pods'
port=$("$KUBECTL" get service visits -o 'jsonpath={.spec.ports[0].nodePort}')
for _ in 1 2 3 4; do
    run curl -fsS --retry 5 --retry-connrefused "http://127.0.0.1:$port/"
done

heading 'Some go to one replica, by its own name'
before=$(counts)
run "$KUBECTL" exec visits-0 -- sh -c 'for i in 1 2 3 4 5 6; do wget -qO- http://visits-1.visits-headless:8080; done'
run "$KUBECTL" exec visits-0 -- sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do wget -qO- http://visits-2.visits-headless:8080; done'
read -r before_0 before_1 before_2 <<<"$before"
[ "$(counts)" = "$before_0 $((before_1 + 6)) $((before_2 + 12))" ] || fail "$before became $(counts)"

heading 'What there is'
run "$KUBECTL" get pods,statefulsets,services,persistentvolumeclaims -l app=visits

heading 'Each replica wrote its visits to its own disk'
for pod in $PODS; do
    run "$KUBECTL" exec "pod/$pod" -- cat /data/visits
done
kept=$(counts)
[ "$(tr ' ' '\n' <<<"$kept" | sort -u | wc -l)" = 3 ] || fail "the counts are not different: $kept"
ok "the counts are $kept"

heading 'The StatefulSet is deleted. Its claims stay'
run "$KUBECTL" delete statefulset visits
for pod in $PODS; do
    # Says "not found" when the pod has gone already.
    "$KUBECTL" wait --for=delete "pod/$pod" --timeout=60s >/dev/null 2>&1 ||
        ! "$KUBECTL" get pod "$pod" >/dev/null 2>&1 || fail "$pod is still there"
done
run "$KUBECTL" get pods,persistentvolumeclaims -l app=visits

heading 'It is applied again. The counts go on'
run "$KUBECTL" apply -f "$MANIFEST"
run "$KUBECTL" rollout status statefulset/visits --timeout=120s
[ "$(counts)" = "$kept" ] || fail "the counts were $kept, and are $(counts)"
for pod in $PODS; do
    run "$KUBECTL" exec "$pod" -- wget -qO- http://127.0.0.1:8080
done
read -r kept_0 kept_1 kept_2 <<<"$kept"
[ "$(counts)" = "$((kept_0 + 1)) $((kept_1 + 1)) $((kept_2 + 1))" ] || fail "$kept became $(counts)"
ok "from $kept to $(counts)"

heading 'The server is killed, and started again. No pod notices'
before=$(identities)
pid=$(server_pid)
run kill -9 "$pid"
run "$STEAD" up --detach
run "$KUBECTL" get pods -l app=visits
[ "$(identities)" = "$before" ] || fail "the pods are others: $before became $(identities)"
[ "$(server_pid)" != "$pid" ] || fail 'the server is the same'
ok 'the same pods, the same containers, no restarts'

heading 'That was it. The cluster goes on running'
note "  look around            $KUBECTL get all; $KUBECTL describe pod visits-0; $KUBECTL logs visits-0"
note "  visit                  curl http://127.0.0.1:$port/"
note "  one replica more       $KUBECTL scale statefulset visits --replicas=4"
note "  the cluster's state    $STEAD status"
note "  stop it, keep all      $STEAD down"
note '  remove all             make clean-demo'
