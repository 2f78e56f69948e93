#!/bin/sh
# First process of the node's namespaces: makes the machine that kubelet expects, then reaps until it is killed.
#
# Arguments: DATA (a folder of the run), CGROUP, NODE_ADDRESS/BITS, SERVICES (CIDR), BOOTSTRAP (a folder, or "").
# Nothing here reaches the host but the cgroups of the name CGROUP: mounts and network are private.
set -eu
data=$1 cgroup=$2 address=$3 services=$4 bootstrap=$5

# Pods' volumes have to propagate within the node, hence shared; `unshare` has cut the tie to the host already.
mount --make-rshared /
for folder in /var /etc; do
    mkdir -p "$data/overlay$folder/upper" "$data/overlay$folder/work"
    mount -t overlay overlay "$folder" \
        -o "lowerdir=$folder,upperdir=$data/overlay$folder/upper,workdir=$data/overlay$folder/work"
done
mount -t tmpfs tmpfs /run
# Images come and go with the run: in memory they load faster, and need not be deleted file by file.
mkdir -p "$data/containerd/root"
mount -t tmpfs tmpfs "$data/containerd/root"
hostname node1

if [ -n "$bootstrap" ]; then
    mkdir -p /etc/kubernetes/auditpipeline
    mount --bind "$bootstrap" /etc/kubernetes/auditpipeline
fi

if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    # One folder for all controllers; those that the root does not hand down yet are asked for.
    sed 's/[^ ]*/+&/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control || true
    mkdir -p "/sys/fs/cgroup/$cgroup"
else
    for controller in /sys/fs/cgroup/*/; do
        mkdir -p "$controller$cgroup" || true
    done
fi

# kubelet sets these for the whole machine; here it finds them set and leaves the machine's alone.
for setting in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
    file=$data/$(basename "${setting%=*}")
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
done

echo 1 >/proc/sys/net/ipv4/ip_forward
if [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; then
    echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
fi
ip link set lo up
# Not every kernel has dummy devices; every one that runs containers has veth.
ip link add node0 type veth peer name node0-peer
ip address add "$address" dev node0
ip link set node0 up
ip link set node0-peer up
ip route add "$services" dev node0
# What is not here is refused at once, instead of timing out.
ip route add unreachable default
ip -6 route add unreachable default 2>/dev/null || true

touch "$data/sandbox-ready"
sleep infinity &
wait
