# What tests of exod under systemd have in common: sourced, after `set -eu`.
# shellcheck shell=sh

fail() {
    echo "FAILED: $*"
    systemctl --no-pager status exod.service exod.socket || true
    journalctl --no-pager -u exod.service -n 40 || true
    exit 1
}

# Waits until a command succeeds.
await() {
    for _ in $(seq 200); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    fail "never: $*"
}

# A value of a unit: `show exod.service MainPID`.
show() { systemctl show --value --property "$2" "$1"; }

# What exod tells systemd of itself.
status_has() { show exod.service StatusText | grep -qF -- "$1"; }

pages() { cat /proc/sys/vm/nr_hugepages; }

# Puts the programs and units where a package puts them. The configuration comes from standard input.
install_exod() {
    # A test before this one may have failed and left its own.
    systemctl stop exod.socket exod.service 2>/dev/null || true
    rm -rf /etc/systemd/system/exod.service.d /etc/exo
    units=$GUEST_FILES/systemd
    install -m 755 "$(command -v exod)" /usr/sbin/exod
    install -m 644 "$units"/exod.service "$units"/exod.socket "$units"/exo.slice /etc/systemd/system/
    install -D -m 644 "$units/exod.sysusers" /usr/lib/sysusers.d/exod.conf
    install -D -m 644 "$units/exod.tmpfiles" /usr/lib/tmpfiles.d/exod.conf
    # A guest that is stopped for a while, since its host is busy, is no exod that hangs.
    mkdir -p /etc/systemd/system/exod.service.d
    printf '[Service]\nWatchdogSec=0\n' >/etc/systemd/system/exod.service.d/00-patient.conf
    mkdir -p /etc/exo/exod.d
    cat >/etc/exo/exod.toml
    systemd-sysusers exod.conf
    exod --check-config >/dev/null
    systemd-tmpfiles --create exod.conf
    systemctl daemon-reload
}

# Nothing of exod's is left when its units have stopped.
remove_exod() {
    systemctl stop exod.socket exod.service
    ! [ -e /run/exod/exod.sock ] || fail "the socket is left"
    ! pidof exod >/dev/null || fail "a process is left"
    ! [ -e /run/exod-records ] || fail "records are left"
    ! [ -e /sys/fs/cgroup/exo.slice/exod.service ] || fail "a cgroup is left"
    rm /etc/systemd/system/exod.service /etc/systemd/system/exod.socket /etc/systemd/system/exo.slice
    rm -rf /etc/systemd/system/exod.service.d /etc/exo
    systemctl daemon-reload
    systemctl reset-failed
}
