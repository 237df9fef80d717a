#!/bin/sh
# guest: lean
# exod runs as root with private mounts where the kernel has them, and the examples pass as another user.
set -eu
run=$PWD
cat >"$run/exod.toml" <<CONFIG
group = 65534
[pool]
frames = 64
[[rule]]
user = 65534
max_frames = 48
max_ports = 16
max_capabilities = 200
create = ["*"]
join = ["*"]
CONFIG
chmod 755 "$run"
export EXO_SOCKET="$run/exod.sock"
exod --config "$run/exod.toml" --socket "$EXO_SOCKET" >"$GUEST_OUT/exod.log" 2>&1 &
exod=$!
tries=0
until grep -q ready "$GUEST_OUT/exod.log"; do
    tries=$((tries + 1))
    [ $tries -lt 200 ] || { cat "$GUEST_OUT/exod.log"; exit 1; }
    usleep 50000
done
cat "$GUEST_OUT/exod.log"
# Private mounts rest on a Landlock right that is younger than the oldest kernel.
case $GUEST_KERNEL in
6.1) grep -q 'pages="2M" protection=Seals' "$GUEST_OUT/exod.log" ;;
*) grep -q 'pages="2M" protection=Mount' "$GUEST_OUT/exod.log" ;;
esac

as() { su -s /bin/sh "$1" -c "$2"; }
[ "$(as nobody 'id -u')" -eq 65534 ]
# One process with an exod of its own, which nobody's privileges are enough for.
[ "$(as nobody hello)" = hello ]
# Processes that meet at the real one. By its path, since shells have an echo of their own.
as nobody '/guest/bin/echo server' >"$GUEST_OUT/echo.log" 2>&1 &
as nobody '/guest/bin/echo client --count 200'
as nobody 'l2fwd --packets 2000'
wait $!

# The socket is for the group, and for nobody else.
if as daemon '/guest/bin/echo client --count 1' 2>"$run/refused"; then
    echo "a user without the group was served"
    exit 1
fi
cat "$run/refused"

kill "$exod"
wait "$exod"
[ ! -e "$EXO_SOCKET" ]
[ "$(cat /proc/sys/vm/nr_hugepages)" -eq 128 ]
! grep -q exo /proc/mounts
