import base64
import hmac


def verify_webhook(api_key: str, body: bytes, signature: str) -> bool:
    calculated = base64.b64encode(hmac.digest(api_key.encode(), body, "sha256"))
    return hmac.compare_digest(calculated, signature.encode())
