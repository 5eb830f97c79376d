"""
TLS from files, with the options of Twisted's C{ssl:} descriptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.endpoints import quoteStringArgument, serverFromString

from portlisten._ports.recording import RecordingReactor, recorded
from portlisten.errors import EndpointError

#: The options of a description that name files.
FILES = ("privateKey", "certKey", "extraCertChain", "dhParameters")


def contextFactory(files: Mapping[str, str]) -> Any:
    """
    Read the files, and make a context factory for a server.

    @param files: paths by their names in L{FILES}, at least one.
    @return: a L{CertificateOptions<twisted.internet.ssl.CertificateOptions>}.
    @raise EndpointError: if a file does not load, or the files do not match.
    """
    if "privateKey" not in files:
        raise EndpointError(f"{next(iter(files))} needs privateKey, the key's file")
    try:
        import OpenSSL  # noqa: F401
    except ImportError:
        raise EndpointError("TLS needs pyOpenSSL: pip install 'twisted[tls]'") from None
    description = "ssl:0" + "".join(
        f":{name}={quoteStringArgument(file)}" for name, file in files.items()
    )
    try:
        made = recorded(serverFromString(RecordingReactor(), description))
        made.getContext()  # fails if the files do not match
    except Exception as error:
        what = ", ".join(f"{name}={file}" for name, file in files.items())
        raise EndpointError(f"TLS does not load from {what}: {_why(error)}") from error
    return made


def _why(error: Exception) -> str:
    """
    Say in one line what is wrong with a file.
    """
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    if error.args and isinstance(error.args[0], list):
        # Errors of OpenSSL are triples of library, function and reason.
        return "OpenSSL says: " + "; ".join(each[-1] for each in error.args[0])
    return " ".join(str(error).split())
