#!/bin/sh
# guest: systemd kernels=6.1,6.12 hugepages=64 timeout_s=240
# files: systemd .ci/guest/lib
# Two services without any privilege but their group exchange packets; one outside the group gets nowhere.
set -eu
. "$GUEST_FILES/.ci/guest/lib/exod.sh"

install_exod <<'TOML'
[[rule]]
group = "exo"
max_frames = 8
max_ports = 4
create = ["*"]
join = ["*"]
TOML
systemctl start exod.service
service() {
    unit=$1 command=$2
    shift 2
    {
        printf '[Service]\nType=exec\nExecStart=%s\nDynamicUser=yes\nPrivateDevices=yes\n' "$command"
        printf 'PrivateNetwork=yes\nCapabilityBoundingSet=\nRestrictAddressFamilies=AF_UNIX\n'
        for setting in "$@"; do echo "$setting"; done
    } >"/run/systemd/system/$unit.service"
    systemctl daemon-reload
    systemctl start "$unit.service"
}
ended() { [ "$(show "$1" ActiveState)" != active ]; }

service server "/guest/bin/echo server --count 500" SupplementaryGroups=exo
service client "/guest/bin/echo client --count 500" SupplementaryGroups=exo
await ended client.service
await ended server.service
journalctl -u server -u client -o cat | grep -E "answers|answered" || fail "$(journalctl -u client -u server)"
[ "$(show client.service Result)$(show server.service Result)" = successsuccess ] || fail "one of them failed"

service outsider "/guest/bin/echo client --count 500"
await ended outsider.service
[ "$(show outsider.service Result)" = exit-code ] || fail "somebody outside the group was served"
journalctl -u outsider -o cat | grep -qi "permission denied" || fail "$(journalctl -u outsider)"
rm /run/systemd/system/server.service /run/systemd/system/client.service /run/systemd/system/outsider.service
remove_exod
