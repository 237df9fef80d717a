#!/bin/sh
# guest: systemd kernels=6.12 timeout_s=60
# files: systemd .ci/guest/lib
# systemd finds nothing wrong with exod's units, and exposes little by them.
set -eu
. "$GUEST_FILES/.ci/guest/lib/exod.sh"
command -v systemd-analyze >/dev/null || { echo "no systemd-analyze here"; exit 77; }

install_exod </dev/null
systemd-analyze verify --man=no exod.service exod.socket exo.slice 2>&1 | tee /tmp/verify
! [ -s /tmp/verify ] || fail "systemd-analyze verify"
systemd-analyze security --no-pager exod.service | tail -n 1
# In tenths: what is left is listed and explained in the unit.
systemd-analyze security --no-pager --threshold=19 exod.service >/dev/null || fail "exposed too much"
remove_exod
