"""
Certificates for tests of TLS.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

try:
    import OpenSSL
except ImportError:
    OpenSSL = None  # type: ignore[assignment]

__all__ = ["OpenSSL", "certify", "needsTLS"]

#: Why tests of TLS are skipped; nothing if they are not.
needsTLS = "" if OpenSSL else "pyOpenSSL is not installed: pip install 'twisted[tls]'"


def certify(name: str) -> tuple[str, str]:
    """
    Make a key, and a certificate of it for C{localhost}.

    @return: their files.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    with open(f"{name}.key", "wb") as file:
        file.write(
            key.private_bytes(
                pem,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    with open(f"{name}.pem", "wb") as file:
        file.write(certificate.public_bytes(pem))
    return f"{name}.key", f"{name}.pem"
