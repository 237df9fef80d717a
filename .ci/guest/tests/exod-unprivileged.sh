#!/bin/sh
# guest: systemd kernels=6.1,6.12 hugepages=64 timeout_s=120
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
systemctl start exod.socket
service() {
    unit=$1
    shift
    systemd-run --quiet --unit="$unit" -p DynamicUser=yes -p PrivateDevices=yes -p PrivateNetwork=yes \
        -p CapabilityBoundingSet= -p RestrictAddressFamilies=AF_UNIX "$@"
}
service server -p SupplementaryGroups=exo /guest/bin/echo server
await sh -c 'systemctl is-active exod.service'
service client --wait -p SupplementaryGroups=exo /guest/bin/echo client || fail "$(journalctl -u client -u server)"
journalctl -u server -u client -o cat | grep -E "answers|answered"
await sh -c 'journalctl -u server | grep -q "packets answered"'

if service outsider --wait -p Environment=EXO_SOCKET=/run/exod/exod.sock /guest/bin/echo client; then
    fail "somebody outside the group was served"
fi
remove_exod
