#!/bin/busybox sh
# The first process of a guest: mounts what a test expects, loads modules, runs the steps and switches off. What the host reads comes
# out of the second serial port; the first is the kernel's own.

/bin/busybox mkdir -p /usr/bin /proc /sys /dev /tmp /run /var
/bin/busybox --install -s /usr/bin
export PATH=/bin:/usr/bin HOME=/tmp RUST_BACKTRACE=1 LAB_BIN=/bin/lab XLB_BIN=/bin/xlb
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
exec > /dev/ttyS1 2>&1 < /dev/null

while read -r module; do
    insmod "$module" || echo "xlb-guest: problem insmod $module failed"
done < /modules/order
ip link set lo up
cd /tmp || exit

step() {
    echo "xlb-guest: step $1"
    shift
    "$@"
    echo "xlb-guest: status $?"
}

echo "xlb-guest: kernel $(uname -r)"
. /steps
echo "xlb-guest: taint $(cat /proc/sys/kernel/tainted)"
poweroff -f
