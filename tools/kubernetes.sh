#!/usr/bin/env bash
# Builds Kubernetes from Debian's source, for tests: tools/kubernetes.sh [folder]
#
# Where no binaries of Kubernetes can be fetched, Debian 12 still carries the whole source of 1.20, and
# Go. Takes five minutes on two cores. The folder (build/kubernetes by default) then holds what a control plane and a
# node consist of; name it by KUBEBUILDER_ASSETS, as envtest's own folders of later versions are.
# Ends with 69 where the machine lacks tools or the source.
set -euo pipefail
cd "$(dirname "$0")/.."
folder="$(realpath -m "${1:-build/kubernetes}")"
version=1.20.2
stamp="$(sha256sum tools/kubernetes.sh)"
[ "$(cat "$folder/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
for tool in apt-get go gcc etcd; do
  command -v "$tool" >/dev/null || { echo "install $tool (Debian: golang-go, gcc, etcd-server)" >&2; exit 69; }
done
# Newer than the vendored copies, which know only the maps of Go before 1.18.
packaged=/usr/share/gocode/src/github.com
for package in modern-go/reflect2 json-iterator/go; do
  [ -d "$packaged/$package" ] || { echo "install golang-github-modern-go-reflect2-dev and golang-github-json-iterator-go-dev" >&2; exit 69; }
done

work="$(mktemp -d)"
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
# The machine's own sources of packages, asked for sources; apt checks their signatures.
mkdir -p "$work/apt/lists/partial" "$work/apt/parts"
for list in /etc/apt/sources.list /etc/apt/sources.list.d/debian*; do
  [ -f "$list" ] || continue
  sed 's/^Types: deb$/Types: deb-src/; s/^deb /deb-src /' "$list" >"$work/apt/parts/$(basename "$list" .list).${list##*.}"
done
apt=(apt-get -qq -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$work/apt/parts" -o "Dir::State::Lists=$work/apt/lists"
  -o APT::Sandbox::User=root -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)
"${apt[@]}" update && (cd "$work" && "${apt[@]}" source --download-only kubernetes) ||
  { echo "the sources of this machine's packages cannot be fetched; set KUBEBUILDER_ASSETS instead" >&2; exit 69; }
archive=("$work"/kubernetes_*"$version".orig.tar.gz)
[ -f "${archive[0]}" ] || { echo "Debian's source of Kubernetes here is not $version: $(ls "$work"); set KUBEBUILDER_ASSETS instead" >&2; exit 69; }

export GOPATH="$work/go" GO111MODULE=off GOCACHE="$work/cache" CGO_ENABLED=0 GOFLAGS=
package=k8s.io/kubernetes
tree="$GOPATH/src/$package"
mkdir -p "$tree"
tar xzf "${archive[0]}" -C "$tree" --strip-components=1
cd "$tree"
for package_of in modern-go/reflect2 json-iterator/go; do
  rm -r "vendor/github.com/$package_of"
  cp -r "$packaged/$package_of" "vendor/github.com/$package_of"
done
# Go since 1.18 keeps all empty strings at one address, which these two took for nil.
sed -i 's/ || reflect\.DeepEqual(reflect\.Zero(reflect\.TypeOf(data)), reflect\.ValueOf(data))//' \
  vendor/k8s.io/kube-openapi/pkg/validation/validate/type.go vendor/github.com/go-openapi/validate/type.go
if grep -q 'reflect\.Zero(reflect\.TypeOf(data))' vendor/k8s.io/kube-openapi/pkg/validation/validate/type.go; then
  echo "the source is not as it is known here: empty strings would be taken for null" >&2
  exit 1
fi
# What it says of itself: an archive of sources knows no tag.
IFS=. read -r major minor _ <<<"$version"
for base in client-go/pkg component-base; do
  sed -i -E "s/^(\s+gitMajor)\b.*/\1 = \"$major\"/; s/^(\s+gitMinor)\b.*/\1 = \"$minor\"/; s/^(\s+gitVersion)\b.*/\1 = \"v$version\"/" \
    "staging/src/k8s.io/$base/version/base.go"
  grep -q "gitVersion = \"v$version\"" "staging/src/k8s.io/$base/version/base.go"
done
# The one generated file that the archive leaves out.
go build -o "$work/openapi-gen" "$package/vendor/k8s.io/kube-openapi/cmd/openapi-gen"
described="$(grep -rl --include='*.go' --exclude='*_test.go' '+k8s:openapi-gen=true' staging/src/k8s.io pkg | xargs -n1 dirname | sort -u |
  grep -v -e _examples -e code-generator -e sample- | sed "s#^staging/src/#$package/vendor/#; s#^pkg#$package/pkg#" | paste -sd,)"
"$work/openapi-gen" -O zz_generated.openapi -i "$described" -p "$package/pkg/generated/openapi" -r "$work/violations" \
  --go-header-file hack/boilerplate/boilerplate.generatego.txt
mkdir -p "$work/built"
for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy; do commands+=("$package/cmd/$name"); done
go build -ldflags "-s -w" -o "$work/built/" "${commands[@]}"
gcc -Os -static -DVERSION="$version" -o "$work/built/pause" build/pause/linux/pause.c
ln -s "$(command -v etcd)" "$work/built/etcd"
mkdir -p "$folder"
mv -f "$work"/built/* "$folder/"
echo "$stamp" >"$folder/stamp"
echo "$folder"
