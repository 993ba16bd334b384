"""The provider sandbox: SendGrid v3 and Twilio over HTTP, with simulated people behind them.

Never knows anything that a real provider would not know; see README.md beside this file.
"""

from commplan.sandbox.app import create_app, running, serve
from commplan.sandbox.config import SandboxConfig, generate_key
from commplan.sandbox.switches import Fault, Role, Switches

__all__ = ["Fault", "Role", "SandboxConfig", "Switches", "create_app", "generate_key", "running", "serve"]
