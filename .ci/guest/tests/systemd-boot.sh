#!/bin/sh
# guest: systemd
# systemd starts everything that a system has, gives services their cgroups, and runs one for another user.
set -eu
systemctl is-system-running --wait
[ "$(cat /proc/1/comm)" = systemd ]
case $(uname -r) in
"$GUEST_KERNEL".*) ;;
*) echo "this is $(uname -r), and not $GUEST_KERNEL"; exit 1 ;;
esac
for controller in cpuset cpu io memory hugetlb pids; do
    grep -qw "$controller" /sys/fs/cgroup/cgroup.controllers
done
[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]
# What tests of units and packages rest on.
[ "$(systemd-run --quiet --pipe --wait --property DynamicUser=yes id -u)" -ge 61184 ]
dpkg --audit
[ -z "$(dpkg --audit)" ]
dpkg-query -W -f '${Status}\n' systemd | grep -qx 'install ok installed'
