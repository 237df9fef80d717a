#!/bin/sh
# guest: lean timeout_s=120
# tests: exod:frames exod:frames_leftovers libexo:port_hostile libexo:guard
# Memory is granted, protected and taken back on this kernel, with hugepages and as root.
set -eu
before=$(cat /proc/sys/vm/nr_hugepages)
for test in exod-frames exod-frames_leftovers libexo-port_hostile libexo-guard; do
    echo "== $test"
    "$test" --nocapture --test-threads=1
done
[ "$(cat /proc/sys/vm/nr_hugepages)" -eq "$before" ]
! grep -q exo /proc/mounts
