#!/bin/sh
# guest: systemd kernels=6.1,6.12 hugepages=64 timeout_s=120
# files: systemd .ci/guest/lib
# An exod that hangs is noticed by systemd and started again, and what it had changed is put back.
set -eu
. "$GUEST_FILES/.ci/guest/lib/exod.sh"
pages_before=$(pages)

install_exod <<'TOML'
[pool]
frames = 100
raise_hugepages = 80
ready = [{ frames = 1, units = 90 }]
[[rule]]
user = "root"
admin = true
TOML
printf '[Service]\nWatchdogSec=3s\nWatchdogSignal=SIGKILL\n' >/etc/systemd/system/exod.service.d/soon.conf
systemctl daemon-reload
systemctl start exod.service
pid=$(show exod.service MainPID)
await sh -c "[ \$(cat /proc/sys/vm/nr_hugepages) -gt $pages_before ]"

# It pings: no restart in more than the watchdog's time. What the stock lacks comes with a ping.
await sh -c 'journalctl -u exod.service | grep -q "stock of ready units of 1 frames cannot be completed"'
status_has "of 90 units ready" || fail "it has pages that are not there"
echo $(($(pages) + 16)) >/proc/sys/vm/nr_hugepages
await sh -c '! systemctl show --value -p StatusText exod.service | grep -q "units ready"'
echo $(($(pages) - 16)) >/proc/sys/vm/nr_hugepages
for attempt in 1 2 3 4 5; do
    pid=$(show exod.service MainPID)
    before=$(date +%s)
    sleep 5
    # The whole guest may be stopped meanwhile: that says nothing.
    [ $(($(date +%s) - before)) -ge 7 ] || break
    [ "$attempt" -lt 5 ] || { echo "this machine is too busy"; exit 77; }
done
[ "$(show exod.service MainPID)" = "$pid" ] || fail "it was ended though it turns"
restarts=$(show exod.service NRestarts)

kill -STOP "$pid"
restarted() { [ "$(show exod.service NRestarts)" -gt "$restarts" ] && [ "$(show exod.service ActiveState)" = active ]; }
await restarted
[ "$(show exod.service MainPID)" != "$pid" ] || fail "the same process"
exo status >/dev/null

remove_exod
[ "$(pages)" = "$pages_before" ] || fail "hugepages: $(pages), $pages_before before"

# The same when nobody starts it again.
install_exod <<'TOML'
[pool]
raise_hugepages = 80
TOML
printf '[Service]\nRestart=no\n' >/etc/systemd/system/exod.service.d/once.conf
systemctl daemon-reload
systemctl start exod.service
await sh -c "[ \$(cat /proc/sys/vm/nr_hugepages) -gt $pages_before ]"
kill -KILL "$(show exod.service MainPID)"
await sh -c '[ "$(systemctl is-active exod.service)" = failed ]'
[ "$(pages)" = "$pages_before" ] || fail "hugepages after a kill: $(pages), $pages_before before"
remove_exod
