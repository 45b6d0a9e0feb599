#!/usr/bin/env bash
# A Kubernetes of one node, in namespaces of its own: the first process of them, which ends with its
# standard input and takes all others with it. tests/cluster/kubernetes.py starts it:
#   unshare --fork --pid --mount --mount-proc --net --uts node.sh BINARIES FOLDER
set -euo pipefail
binaries="$1" folder="$2"
# What of the machine's the node would write to is its own here.
hostname "$NODE_NAME"
for path in /run/netns /run/containerd /usr/libexec/kubernetes /var/lib/cni /var/lib/kubelet /var/log/containers /var/log/pods; do
  mkdir -p "$path"
  mount -t tmpfs node "$path"
done
ip link set lo up
# The machine gives the other end of this cable once it sees that we are up.
touch "$folder/up"
until ip link show node1 >/dev/null 2>&1; do sleep 0.05; done
ip address add "$NODE_ADDRESS/30" dev node1
ip link set node1 up
ip route add default via "$HOST_ADDRESS"
# Kubernetes forwards between pods, and bridges through the firewall.
sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1

cd "$folder"
start() {
  local name="$1"
  shift
  "$@" >"logs/$name.log" 2>&1 &
}
start etcd "$binaries/etcd" --data-dir=etcd --listen-client-urls=http://127.0.0.1:2379 \
  --advertise-client-urls=http://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380 --unsafe-no-fsync
start apiserver "$binaries/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --bind-address="$NODE_ADDRESS" \
  --advertise-address="$NODE_ADDRESS" --tls-cert-file=pki/apiserver.crt --tls-private-key-file=pki/apiserver.key \
  --client-ca-file=pki/ca.crt --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
  --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=pki/accounts.key \
  --service-account-signing-key-file=pki/accounts.key --service-cluster-ip-range="$SERVICES" \
  --kubelet-preferred-address-types=InternalIP --kubelet-client-certificate=pki/admin.crt --kubelet-client-key=pki/admin.key
start containerd containerd --config containerd.toml
# Not before it has made the roles that those which follow have.
ask() { curl --silent --fail --cacert pki/ca.crt --cert pki/admin.crt --key pki/admin.key "https://$NODE_ADDRESS:6443/$1"; }
until ask readyz >/dev/null; do sleep 0.2; done
as() { echo "--kubeconfig=$1.conf" "--authentication-kubeconfig=$1.conf" "--authorization-kubeconfig=$1.conf"; }
# shellcheck disable=SC2046
start controllers "$binaries/kube-controller-manager" $(as controllers) --bind-address=127.0.0.1 --leader-elect=false \
  --service-account-private-key-file=pki/accounts.key --root-ca-file=pki/ca.crt --use-service-account-credentials \
  --cluster-signing-cert-file=pki/ca.crt --cluster-signing-key-file=pki/ca.key
# shellcheck disable=SC2046
start scheduler "$binaries/kube-scheduler" $(as scheduler) --bind-address=127.0.0.1 --leader-elect=false
start kubelet "$binaries/kubelet" --config=kubelet.yaml --kubeconfig=kubelet.conf --root-dir="$folder/kubelet" \
  --container-runtime=remote --container-runtime-endpoint="unix://$folder/containerd.sock" \
  --hostname-override="$NODE_NAME" --node-ip="$NODE_ADDRESS"
start proxy "$binaries/kube-proxy" --kubeconfig=proxy.conf --proxy-mode=iptables --cluster-cidr="$PODS" --hostname-override="$NODE_NAME" \
  --bind-address="$NODE_ADDRESS" --conntrack-max-per-core=0 --conntrack-min=0 \
  --conntrack-tcp-timeout-established=0s --conntrack-tcp-timeout-close-wait=0s
cat >/dev/null
