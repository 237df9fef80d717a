#!/bin/sh
# guest: systemd timeout_s=240 memory_mib=2048 alone
# files: docs/tutorial.md target/debian/*.deb
# host: .ci/package
# The tutorial's part under systemd, command by command, ends with packets between two services and nothing left.
set -eu
cd "$GUEST_FILES"
# The daemon under test is the package's, not one that lies beside this script.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
commands=$(awk '
    /^## / { wanted = /systemd|service of your own|Gone again/ }
    /^```sh$/ { inside = wanted; next }
    /^```/ { inside = 0 }
    inside { print }' docs/tutorial.md)
# The host ran the first of them: this script says so above.
[ "$(echo "$commands" | sed -n 1p)" = .ci/package ]
echo "$commands" | sed 1d >/tmp/commands.sh
sh -eux /tmp/commands.sh >/tmp/said 2>/tmp/trace || { cat /tmp/trace /tmp/said; exit 1; }
sed 's/^/| /' /tmp/said

[ "$(grep -c '^active$' /tmp/said)" = 2 ]
[ "$(grep -c '^DynamicUser=yes$' /tmp/said)" = 2 ]
grep -q '^a producer is here$' /tmp/said
grep -q '^the producer left$' /tmp/said
grep -Eq '^[1-9][0-9]* packets, 0 missing, 0 damaged$' /tmp/said
gone() { if "$@"; then echo "still there: $*"; exit 1; fi; }
gone grep -E '[1-9][0-9]* damaged' /tmp/said
gone getent group exo
gone test -e /usr/sbin/exod
