#!/usr/bin/env bash
# Orders and documents from a terminal, with grpcurl and jq: the server tells what its messages are.
#
#     client.sh ADDRESS STORY KEY [FILE]
set -euo pipefail
address=$1 story=$2 key=$3 file=${4-}
here=$(dirname "${BASH_SOURCE[0]}")
why=$(mktemp)
trap 'rm -f "$why" "$why".*' EXIT

orders=acme.orders.v1.OrdersService documents=acme.documents.v1.DocumentsService
operations=longshore.v1.OperationsService transfers=longshore.v1.TransfersService
longrunning=google.longrunning.Operations

# METHOD MESSAGE [FLAG...]: messages come to stdout, and a refusal to $why, as JSON with its details.
call() { grpcurl -plaintext -format-error -keepalive-time 10 "${@:3}" -d "$2" "$address" "$1" 2>"$why"; }
say() { jq -nc "$@"; }
order() { jq -nc --arg key "$1" --arg sku "${2-tea}" --arg amount "${3-1200}" \
    '{order_id: $key, items: [{sku: $sku, quantity: 1}], amount: $amount}'; }
place() { call $orders/Process "$(order "$@")" | jq -r .name; }
named() { jq -nc --arg name "$1" '{name: $name}'; }

# Whether it was the connection: a refusal says why in its details, but for UNAVAILABLE (14) it is final. What is no JSON
# says grpcurl, of what it does before the call.
broken() {
    jq -e '.code == 14 or (.code | IN(1, 2, 13)) and (.details | not)' "$why" >/dev/null 2>&1 ||
        grep -Eq '^Failed to dial|code = (Unavailable|Canceled|Unknown|Internal)' "$why" || return 1
    sleep 0.2
}
fail() { cat "$why" >&2; exit 1; }

# How an operation stands: with its result, with its error, or with neither.
end() { jq -c '{state} + (if .result then {status: .result.status} else {} end) +
    (if .error then {error} else {} end)'; }
finish() { call $operations/Wait "$(named "$1")" | end; }

# The contract's own method starts. Whoever repeats it under its request id starts nothing twice.
start() {
    for _ in 1 2; do
        call $orders/Process "$(order "$key")" -v \
            -H "longshore-request-id: checkout-$key" -H 'longshore-label-tenant: acme' >"$why.out"
        say --arg name "$(sed -n 's/^ *"name": "\(.*\)".*/\1/p' "$why.out")" \
            --arg disposition "$(sed -n 's/^longshore-disposition: //p' "$why.out")" '$ARGS.named'
    done
}

# Every event once, in order, over any number of connections.
watch() {
    local name after=0 event
    name=$(place "$key")
    while true; do
        while read -r event; do # a heartbeat is none
            after=$(jq -r .sequence <<<"$event")
            jq -c '{sequence: (.sequence | tonumber)} +
                (del(.sequence, .revision, .attempt, .time, .state) | to_entries[0] |
                {event: (.key | gsub("(?<upper>[A-Z])"; "_" + (.upper | ascii_downcase)))} +
                if .key == "progress" then {step: .value.value.step} else {} end +
                if .key == "completed" then {status: .value.result.status} else {} end)' <<<"$event"
        done < <(call $operations/Watch "$(say --arg name "$name" --arg after_sequence "$after" '$ARGS.named')" |
            jq --unbuffered -c '.event // empty')
        wait $! && return # the stream ends well after the last event, and only then
        broken || fail
        say --argjson resumed_after "$after" '$ARGS.named'
    done
}

# For five seconds, then to the end; `timeout` is the bound of the call, not of the operation.
waits() {
    local name
    name=$(place "$key")
    call $operations/Wait "$(named "$name" | jq -c '. + {timeout: "5s"}')" | end
    finish "$name"
}

# A signal that is repeated under its id is the same signal.
signal() {
    local name
    name=$(place "$key" restricted-tea)
    for _ in 1 2; do
        call $operations/Signal "$(named "$name" | jq -c '. + {signal: "approve", signal_id: "approval-1", payload:
            {"@type": "type.googleapis.com/acme.orders.v1.ApproveOrder", by: "Kim"}}')" |
            jq -c '{number: (.number | tonumber), duplicate: (.duplicate // false)}'
    done
    finish "$name"
}

# Asking twice is asking once.
cancel() {
    local name
    name=$(place "$key")
    for _ in 1 2; do
        call $operations/Cancel "$(named "$name" | jq -c '. + {reason: "changed my mind"}')" >/dev/null
    done
    finish "$name"
}

# Page by page, the newest first.
list() {
    local page token=
    while true; do
        page=$(call $operations/List "$(say --arg key "$key" --arg token "$token" \
            '{filter: "labels.tenant=\"\($key)\"", page_size: 2, page_token: $token}')")
        jq -c '{names: [.operations[].name]}' <<<"$page"
        token=$(jq -r '.nextPageToken // empty' <<<"$page")
        [[ $token ]] || return 0
    done
}

# What an operation failed for is a status, as a refused call has one.
failure() { finish "$(place "$key" tea 1000000)"; }

# Calls that are refused, each with all that it is told.
refused() {
    local which=$1
    shift
    "$@" >/dev/null || jq -c --arg call "$which" '{call: $call, refusal: .}' "$why"
}
refusals() {
    local running upload
    running=$(call $orders/Process "$(order "$key")" -H "longshore-request-id: $key" | jq -r .name)
    upload=$(upload_of "$(call $documents/Upload "$(say --arg key "$key" '$ARGS.named')" | jq -r .name)")
    refused invalid call $orders/Process "$(order '')"
    refused unknown call $operations/Get "$(named operations/nobody)"
    refused reused call $orders/Process "$(order "$key-2")" -H "longshore-request-id: $key"
    refused running call $operations/Delete "$(named "$running")"
    printf tea >"$why.tea"
    refused offset send "$upload" "$why.tea" 1
    refused full call $orders/Process "$(order "$key-3")"
}

# From where the server has it, over any number of connections.
upload_of() { call $operations/Get "$(named "$1")" | jq -r .upload.name; }
send() { python3 "$here/pieces.py" "$@" | call $transfers/Upload @; }
upload() {
    local name upload offset
    name=$(call $documents/Upload "$(say --arg key "$key" '$ARGS.named')" | jq -r .name)
    upload=$(upload_of "$name")
    while true; do
        if offset=$(call $transfers/QueryUpload "$(named "$upload")" | jq -r '.committedSize // 0'); then
            say --argjson resumed_at "$offset" '$ARGS.named'
            send "$upload" "$file" "$offset" >"$why.out" && break
        fi
        # Bytes of the broken call may have come after that question: OUT_OF_RANGE (11), so ask again.
        jq -e '.code == 11' "$why" >/dev/null 2>&1 || broken || fail
    done
    say --argjson committed "$(jq -r .upload.committedSize "$why.out")" \
        --arg sha256 "$(jq -r .upload.digests.sha256 "$why.out" | base64 -d | od -An -v -tx1 | tr -d ' \n')" '$ARGS.named'
    call $operations/Wait "$(named "$name")" | jq -c '{download: .result.download}'
}

# From where the caller has it: of the same object.
download() {
    local request size=0 sha256
    request=$(named "$key")
    : >"$why.data"
    until call $transfers/Download "$request" | tee "$why.out" | keep; do
        broken || fail
        size=$(stat -c %s "$why.data")
        request=$(jq -c --argjson offset "$size" --arg sha256 "$(jq -r '.header.download.digests.sha256 // empty' "$why.out")" \
            '. + {offset: $offset} + if $sha256 == "" then {} else {if_sha256: $sha256} end' <<<"$request")
        say --argjson resumed_at "$size" '$ARGS.named'
    done
    read -r sha256 _ < <(sha256sum "$why.data")
    say --argjson size "$(stat -c %s "$why.data")" --arg sha256 "$sha256" '$ARGS.named'
}
keep() {
    jq --unbuffered -r '.chunk.data // empty' | while read -r chunk; do
        [[ -s $why.data ]] || say --argjson begun "$(base64 -d <<<"$chunk" | wc -c)" '$ARGS.named'
        base64 -d <<<"$chunk" >>"$why.data"
    done
}

# google.longrunning: WaitOperation answers at the end, nobody has to ask again and again.
finished() { call $longrunning/WaitOperation "$(named "$@")"; }
longrunning() { finished "$(place "$key")" | jq -c '{step: .metadata.step, status: .response.status}'; }
longrunning_error() {
    finished "$(place "$key" tea 1000000)" | jq -c '.error | {code, reason: .details[0].reason}'
}
longrunning_cancelled() {
    local name
    name=$(place "$key")
    call $longrunning/CancelOperation "$(named "$name")" >/dev/null
    finished "$name" | jq -c '{cancelled: (.error.code == 1)}'
}

# The time of the caller is up; the operation goes on, and is found again by its name.
longrunning_deadline() {
    local name late=false
    name=$(place "$key")
    call $longrunning/WaitOperation "$(named "$name")" -max-time 0.5 || late=true
    call $longrunning/GetOperation "$(named "$name")" | jq -c --argjson deadline $late '{$deadline, done: (.done // false)}'
}

[[ $story == wait ]] && story=waits
"$story"
