#!/bin/sh
# guest: systemd kernels=6.1,6.12 cpus=4 hugepages=64 timeout_s=120 alone
# files: systemd .ci/guest/lib
# Cores and hugepages are reserved through cgroup v2 where the kernel can, refused with a reason where not, and put back.
set -eu
. "$GUEST_FILES/.ci/guest/lib/exod.sh"
root=/sys/fs/cgroup
own=$root/exo.slice/exod.service
controllers_before=$(cat $root/cgroup.subtree_control)
cores_before=$(cat $root/cpuset.cpus.effective)

install_exod <<'TOML'
[machine]
cores = "2-3"
hugepages_max = 4
[pool]
frames = 32
ready = [{ frames = 1, units = 1 }]
[[rule]]
user = "root"
max_frames = 32
max_ports = 4
create = ["*"]
join = ["*"]
admin = true
TOML
systemctl start exod.service

# The limit of the slice holds on every kernel, for exod too.
await status_has "/exo.slice takes at most 4 hugepages"
[ "$(cat $root/exo.slice/hugetlb.2MB.max)" = 8388608 ] || fail "hugetlb.2MB.max"
case "$(cat $root/cgroup.subtree_control)" in *hugetlb*) ;; *) fail "no hugetlb for slices" ;; esac

if [ -e $root/exo.slice/cpuset.cpus.exclusive ]; then
    await status_has "cores 2-3 are isolated in /exo.slice/exod.service/cores"
    [ "$(cat $own/cores/cpuset.cpus.partition)" = isolated ] || fail "$(cat $own/cores/cpuset.cpus.partition)"
    [ "$(cat $root/cpuset.cpus.effective)" = 0-1 ] || fail "the rest has $(cat $root/cpuset.cpus.effective)"
    [ "$(cat $own/daemon/cgroup.procs)" = "$(show exod.service MainPID)" ] || fail "exod is elsewhere"
    # Nobody outside gets there, not even by asking; who is let in does.
    if taskset -c 2 true 2>/dev/null; then fail "a process outside runs on core 2"; fi
    sh -c 'echo $$ >'$own'/cores/cgroup.procs && grep -q "^Cpus_allowed_list:.*2-3$" /proc/self/status' || fail "no core inside"
else
    await status_has "machine.cores are not isolated: a service can have cores of its own since Linux 6.7"
    [ "$(cat $root/cpuset.cpus.effective)" = "$cores_before" ] || fail "cores were taken"
fi
exo status >/dev/null
sed -i 's/units = 1 /units = 9 /' /etc/exo/exod.toml
systemctl reload exod.service
await sh -c 'journalctl -u exod.service | grep -q "limit of exod.s cgroup is reached"'
[ "$(cat $root/exo.slice/hugetlb.2MB.current)" -le 8388608 ] || fail "more than the limit"

# The keys need a restart: a reload says so.
sed -i 's/"2-3"/"3"/' /etc/exo/exod.toml
systemctl reload exod.service
await sh -c 'journalctl -u exod.service | grep -q "machine.cores"'

# A kill: what was changed is put back before the next one begins, and that one has it again.
sed -i 's/"3"/"2-3"/' /etc/exo/exod.toml
kill -KILL "$(show exod.service MainPID)"
await sh -c '[ "$(systemctl show --value -p NRestarts exod.service)" = 1 ]'
await status_has "/exo.slice takes at most 4 hugepages"
! [ -e $root/exo.slice/cpuset.cpus.exclusive ] || await status_has "cores 2-3 are isolated"

# Cores that are not there, and all of them.
for wrong in 9:"core 9 cannot be had" 0-3:"leave at least one"; do
    sed -i "s/^cores = .*/cores = \"${wrong%%:*}\"/" /etc/exo/exod.toml
    systemctl restart exod.service
    if [ -e $root/exo.slice/cpuset.cpus.exclusive ]; then
        await status_has "${wrong#*:}"
    fi
    exo status >/dev/null
done

# A slice that is everybody's is left alone.
printf '[Service]\nSlice=system.slice\n' >/etc/systemd/system/exod.service.d/slice.conf
systemctl daemon-reload
systemctl restart exod.service
await status_has "exod is in /system.slice, where others are too"
rm /etc/systemd/system/exod.service.d/slice.conf
systemctl daemon-reload
sed -i 's/^cores = .*/cores = "1"/' /etc/exo/exod.toml
systemctl restart exod.service
await status_has "takes at most 4 hugepages"

remove_exod
[ "$(cat $root/cgroup.subtree_control)" = "$controllers_before" ] || fail "controllers: $(cat $root/cgroup.subtree_control)"
[ "$(cat $root/cpuset.cpus.effective)" = "$cores_before" ] || fail "cores: $(cat $root/cpuset.cpus.effective)"
