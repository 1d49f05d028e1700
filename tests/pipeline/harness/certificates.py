"""An authority and what it signs, as PEM files in a folder."""

import datetime
import ipaddress
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def name_of(text):
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


class Authority:
    def __init__(self, folder, name="ca"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name, self.key, self.certificate = name, None, None
        self.file, _ = self.make(name)

    def make(self, name, names=(), days=(-1, 1), password=None):
        """NAME.crt and NAME.key, and both in NAME.pem. names: of DNS or addresses that it is for; days: from, to,
        counted from now. Returns the first two paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        now, authority = datetime.datetime.utcnow(), self.key is None
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        b = (x509.CertificateBuilder().subject_name(subject)
             .issuer_name(subject if authority else self.certificate.subject).public_key(key.public_key())
             .serial_number(x509.random_serial_number())
             .not_valid_before(now + datetime.timedelta(days=-400 if authority else days[0]))
             .not_valid_after(now + datetime.timedelta(days=400 if authority else days[1])))
        if authority:
            b = b.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        elif names:
            b = b.add_extension(x509.SubjectAlternativeName([name_of(n) for n in names]), critical=False)
        certificate = b.sign(key if authority else self.key, hashes.SHA256())
        if authority:
            self.key, self.certificate = key, certificate
        secret = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
        paths = [self.folder / f"{name}.{kind}" for kind in ("crt", "key", "pem")]
        for path, content in zip(paths, (pem, private, private + pem)):
            path.touch(0o600)
            path.write_bytes(content)
        return paths[:2]
