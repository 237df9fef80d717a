#!/bin/sh
# guest: systemd timeout_s=300 memory_mib=2048 alone
# files: target/debian/*.deb
# host: .ci/package
# The package: installed, started, used by unprivileged services, upgraded, removed, purged, and nothing is left.
set -eu
cd "$GUEST_FILES/target/debian"
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
step() { echo "== $*"; }
# `!` does not end a script under -e.
gone() { if "$@"; then echo "still there: $*"; exit 1; fi; }
pgrep_exod() { grep -lx exod /proc/[0-9]*/comm 2>/dev/null; }

# All that a package could leave behind. What dpkg, systemd and the journal keep for themselves is not ours.
everything() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /guest -o -path /tmp -o -path /var/log \
        -o -path /var/lib/dpkg -o -path /var/lib/systemd -o -path /run/systemd -o -path /run/log \
        -o -path /var/cache -o -path /run/user \) -prune -o -print | sort
    getent group | cut -d: -f1 | sort
    getent passwd | cut -d: -f1 | sort
    systemctl list-unit-files --no-legend --no-pager 'ex*' || true
    cat /proc/sys/vm/nr_hugepages
}
# Waits until a command succeeds.
soon() {
    for _ in $(seq 100); do
        "$@" && return
        sleep 0.3
    done
    echo "not in time: $*"
    systemctl status --no-pager --full exod.service exo-producer exo-consumer || true
    return 1
}
packets_arrive() { journalctl --unit exo-consumer --since "$1" --output cat | grep -q '^[1-9].* packets, 0 missing, 0 damaged'; }
now() { date '+%Y-%m-%d %H:%M:%S'; }
# The same package with a higher version.
newer() {
    dpkg-deb -R "$1" "/tmp/newer"
    sed -i 's/^Version: .*/Version: 99.0-1/' /tmp/newer/DEBIAN/control
    dpkg-deb -Zgzip -z1 --build /tmp/newer "/tmp/$(basename "$1" .deb)-newer.deb" >/dev/null
    rm -r /tmp/newer
}

everything >/tmp/before
step install
dpkg -i exod_*.deb exo-examples_*.deb >/tmp/dpkg
systemctl is-active exod.socket exod.service
systemctl is-enabled exod.socket exod.service
exo status
[ "$(stat -c '%a %U %G' /run/exod/exod.sock)" = '660 root exo' ]

step use
start=$(now)
systemctl start exo-consumer
soon packets_arrive "$start"
for unit in exo-producer exo-consumer; do
    pid=$(systemctl show --property MainPID --value "$unit")
    grep -Eq '^Uid:.(6[1-5][0-9]{3})\s' "/proc/$pid/status"
    grep -q '^CapEff:.0000000000000000$' "/proc/$pid/status"
done

step upgrade
echo '# a line of the administrator' >>/etc/exo/exod.toml
old=$(systemctl show --property MainPID --value exod)
newer exod_*.deb
start=$(now)
dpkg -i --force-confold /tmp/exod_*-newer.deb >>/tmp/dpkg
[ "$(dpkg-query -W -f '${Version}' exod)" = 99.0-1 ]
systemctl is-active exod.socket exod.service
[ "$(systemctl show --property MainPID --value exod)" != "$old" ]
grep -q '^# a line of the administrator$' /etc/exo/exod.toml
soon packets_arrive "$start"

step remove
dpkg --remove exo-examples exod >>/tmp/dpkg
[ ! -e /run/exod/exod.sock ]
[ -e /etc/exo/exod.toml ]
gone systemctl is-active --quiet exod.service
gone pgrep_exod

step purge
dpkg --purge exo-examples exod >>/tmp/dpkg
everything >/tmp/after
diff /tmp/before /tmp/after
echo "nothing is left"
