#!/bin/sh
# guest: systemd kernels=6.1,6.12 hugepages=64 timeout_s=120
# files: systemd .ci/guest/lib
# exod as a service: the first client starts it, a reload touches nobody, a broken file is refused, a stop leaves nothing.
set -eu
. "$GUEST_FILES/.ci/guest/lib/exod.sh"
pages_before=$(pages)
mounts_before=$(wc -l </proc/mounts)

install_exod <<'TOML'
[pool]
frames = 32
raise_hugepages = 96
[[rule]]
user = "root"
max_frames = 8
max_ports = 4
max_capabilities = 64
create = ["*"]
join = ["*"]
admin = true
TOML
systemctl start exod.socket
[ "$(stat -c '%a %G' /run/exod/exod.sock)" = "660 exo" ] || fail "the socket's mode"
[ "$(show exod.service ActiveState)" = inactive ] || fail "it runs before anybody came"

# Activation by the first client.
exo status
[ "$(show exod.service ActiveState)" = active ] || fail "the first client did not start it"
await status_has "Serving 32 frames of 2M pages"
pid=$(show exod.service MainPID)
[ "$(pages)" -gt "$pages_before" ] || fail "no hugepages were added"

# Only what it needs: one capability, no new privileges, a filter.
grep -q '^CapBnd:.*0000000000200000$' "/proc/$pid/status" || fail "capabilities: $(grep Cap "/proc/$pid/status")"
grep -q '^NoNewPrivs:.*1$' "/proc/$pid/status" || fail "new privileges"
grep -q '^Seccomp:.*2$' "/proc/$pid/status" || fail "no filter"

# A reload: the same process, another configuration. Then a file with a mistake.
printf '[pool]\nframes = 16\nraise_hugepages = 64\n' >/etc/exo/exod.d/10-less.toml
systemctl reload exod.service
await status_has "Serving 16 frames"
printf 'workers = "many"\n' >/etc/exo/exod.d/20-wrong.toml
systemctl reload exod.service
await status_has "20-wrong.toml:1:"
exo status >/dev/null
[ "$(show exod.service MainPID)" = "$pid" ] || fail "another process"
rm /etc/exo/exod.d/20-wrong.toml
systemctl reload exod.service
await sh -c '! systemctl show --value -p StatusText exod.service | grep -q refused'

# A second exod gives way to the socket that answers.
if exod --socket /run/exod/exod.sock 2>/tmp/second; then fail "a second exod"; fi
grep -q "another exod answers" /tmp/second || fail "$(cat /tmp/second)"

remove_exod
[ "$(pages)" = "$pages_before" ] || fail "hugepages: $(pages), $pages_before before"
[ "$(wc -l </proc/mounts)" = "$mounts_before" ] || fail "mounts are left"
