#!/bin/sh
# guest: lean kernels=6.1 timeout_s=120
# tests: exod:server_process exod:hostile_client exod:hostile_fuse libexo:client_exod
# exod withstands hostile clients and files on the oldest kernel, and knows processes by pidfds.
set -eu
# What depends on no kernel is tested on the machine itself, at length.
export PROPTEST_CASES=4
for test in exod-hostile_client exod-hostile_fuse exod-server_process libexo-client_exod; do
    echo "== $test"
    "$test" --nocapture --test-threads=1
done
! grep -q exo /proc/mounts
