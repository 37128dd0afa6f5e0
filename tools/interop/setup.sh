#!/bin/sh
# Debian packages that the interop tests use. No service is started.
set -e
export DEBIAN_FRONTEND=noninteractive
packages="bird2 iproute2 ethtool iperf3 iputils-ping tcpdump nftables python3 python3-cryptography python3-scapy
  strongswan-swanctl strongswan-pki charon-systemd libcharon-extauth-plugins libcharon-extra-plugins
  libstrongswan-extra-plugins libstrongswan-standard-plugins
  krb5-kdc krb5-admin-server libkrb5-dev libclang-dev python3-gssapi"
missing=
for package in $packages; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
made=
[ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; made=1; }
trap '[ -z "$made" ] || rm -f /usr/sbin/policy-rc.d' EXIT
apt-get -qq update
apt-get -qq -y -o DPkg::Lock::Timeout=600 --no-install-recommends install $missing
