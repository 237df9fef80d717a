#!/bin/sh
# guest: lean
# The kernel is the one that was asked for, with hugepages, cgroup v2 and a second processor.
set -eu
case $(uname -r) in
"$GUEST_KERNEL".*) ;;
*) echo "this is $(uname -r), and not $GUEST_KERNEL"; exit 1 ;;
esac
[ "$(cat /proc/sys/vm/nr_hugepages)" -eq 128 ]
[ "$(nproc)" -eq 2 ]
[ "$(id -u)" -eq 0 ]
for controller in cpuset hugetlb memory; do
    grep -qw "$controller" /sys/fs/cgroup/cgroup.controllers
done
echo "files come back" >"$GUEST_OUT/note"
