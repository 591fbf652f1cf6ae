"""Why a CONNECT is refused, in MQTT's terms."""

from __future__ import annotations

from gateway.reasons import Reason
from infra.tokens import BadToken, Grant, Verifier


class Refusal(Exception):
    """A CONNECT that is refused: the reason code, a short kind for the counter, and the text that the client is told."""

    def __init__(self, code: Reason, kind: str, text: str, *, retry_after: int = 0) -> None:
        """`retry_after`: whole seconds after which to come again, 0 for nothing to say."""
        super().__init__(text)
        self.code = code
        self.kind = kind
        self.text = text
        self.retry_after = retry_after


def verified(verifier: Verifier, token: bytes, client_id: str, wall: float) -> Grant:
    """What the token allows the client at `wall` (seconds since the epoch). Raises Refusal."""
    try:
        return verifier.verify(token, client_id, wall)
    except BadToken as error:
        code = Reason.NOT_AUTHORIZED if error.forbidden else Reason.BAD_TOKEN
        raise Refusal(code, error.kind, error.text) from None
