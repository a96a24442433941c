"""Pinned TLS: a connection counts only when the server proves the key that the charter pins.

Guarantees (docs/spec/transport.md, section 2): TLS 1.3, no authority is trusted, names and dates in
the certificate mean nothing. The key is compared inside the handshake, before a byte of the
protocol is sent; the handshake itself proves that the server holds it.
"""

import ssl

from treaty.crypto.transport_keys import certificate_pin
from treaty.errors import FormatError
from treaty.ids import Digest

__all__ = ["PinMismatch", "pinned_context"]


class PinMismatch(ssl.SSLError):
    """The server proved another key than the pinned one."""

    def __init__(self, found: str, pin: Digest) -> None:
        super().__init__(
            1, f"the server's certificate has key {found[:16]}, the charter pins {pin[:16]}"
        )


def pinned_context(pin: Digest) -> ssl.SSLContext:
    """Return a client's context that accepts exactly the certificate key with digest `pin`."""

    class Pinned(ssl.SSLObject):
        """A connection whose handshake fails unless the peer's key is the pinned one."""

        def do_handshake(self) -> None:
            """Finish the handshake, then compare; see `ssl.SSLObject.do_handshake`."""
            super().do_handshake()
            shown = self.getpeercert(binary_form=True) or b""
            try:
                found = certificate_pin(shown)
            except FormatError:
                found = Digest("unreadable")
            if found != pin:
                raise PinMismatch(found, pin)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The pin decides; names and authorities would only add others who may vouch for the server.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslobject_class = Pinned
    return context
