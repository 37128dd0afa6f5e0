"""A test PKI made by strongSwan's `pki`: an authority, one below it, and the certificates of the two gateways."""

import shutil

from lab import sh

VALID = ("--dateform", "%d.%m.%y_%T", "--not-before", "01.01.25_00:00:00", "--not-after", "01.01.45_00:00:00")
PAST = ("--dateform", "%d.%m.%y_%T", "--not-before", "01.01.20_00:00:00", "--not-after", "01.01.21_00:00:00")
KEYS = {
    "rsa": ("--type", "rsa", "--size", 2048),
    "ecdsa": ("--type", "ecdsa", "--size", 256),
    "ecdsa384": ("--type", "ecdsa", "--size", 384),
    "ed25519": ("--type", "ed25519"),
}


class Pki:
    """Files `NAME.key` and `NAME.crt` of one kind of key in a directory of its own."""

    def __init__(self, directory, kind, name="Test CA"):
        self.dir, self.kind = directory / f"pki-{kind}", kind
        self.dir.mkdir()
        self.key("ca")
        self.write("ca.crt", "--self", "--ca", "--in", self.dir / "ca.key", "--dn", self.dn(f"{name} {kind}"), *VALID)

    def dn(self, name, unit=None):
        return f"C=XX, O=interop, {f'OU={unit}, ' if unit else ''}CN={name}"

    def write(self, name, *args):
        done = sh("pki", *args, "--outform", "pem")
        (self.dir / name).write_text(done.stdout)

    def key(self, name):
        self.write(f"{name}.key", "--gen", *KEYS[self.kind])
        (self.dir / f"{name}.key").chmod(0o600)

    def issue(self, name, *extra, key=None, ca="ca", sans=None, valid=VALID, unit=None):
        """A certificate for `KEY.interop.test` called NAME."""
        key = key or name
        if not (self.dir / f"{key}.key").exists():
            self.key(key)
        host = f"{key}.interop.test"
        names = [f"--san={san}" for san in ([host] if sans is None else sans)]
        public = self.dir / f"{key}.pub"
        public.write_text(sh("pki", "--pub", "--in", self.dir / f"{key}.key", "--outform", "pem").stdout)
        self.write(
            f"{name}.crt", "--issue", "--in", public, "--cacert", self.dir / f"{ca}.crt", "--cakey",
            self.dir / f"{ca}.key", "--dn", self.dn(host, unit), *names, *extra, *valid,
        )

    def revoke(self, name):
        self.write(
            "ca.crl", "--signcrl", "--cacert", self.dir / "ca.crt", "--cakey", self.dir / "ca.key", "--lifetime", 3650,
            "--reason", "key-compromise", "--cert", self.dir / f"{name}.crt",
        )

    def provide(self, directory, side, certificate=None, below=()):
        """Puts what one gateway needs where swanctl looks for it."""
        for folder in ("x509", "x509ca", "x509crl", "private"):
            (directory / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(self.dir / "ca.crt", directory / "x509ca" / f"{self.kind}-ca.crt")
        shutil.copy(self.dir / f"{certificate or side}.crt", directory / "x509" / f"{self.kind}-{side}.crt")
        shutil.copy(self.dir / f"{side}.key", directory / "private" / f"{self.kind}-{side}.key")
        for name in below:
            shutil.copy(self.dir / f"{name}.crt", directory / "x509" / f"{self.kind}-{name}.crt")
