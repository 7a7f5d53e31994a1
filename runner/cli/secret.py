"""The secret that webhooks are signed with, from the environment."""

from __future__ import annotations

import os

from runner.errors import AccessRefused


def webhook_secret() -> str:
    """The secret in OPENAI_WEBHOOK_SECRET. AccessRefused if there is none, BadConfiguration if it cannot be one."""
    from runner.api.webhooks import check_secret

    secret = os.environ.get("OPENAI_WEBHOOK_SECRET", "").strip()
    if not secret:
        raise AccessRefused(
            "There is no webhook secret. Set OPENAI_WEBHOOK_SECRET to the whsec_... that was shown when the webhook "
            "was made; between `runner simulate --webhook` and `runner listen` any text will do."
        )
    check_secret(secret)
    return secret
