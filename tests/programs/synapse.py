"""
Synapse, a home server of Matrix.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from typing import Any

from tests.programs.program import PATIENCE, Stage
from tests.programs.python import PythonProgram, run

SETTINGS = """
server_name: localhost
pid_file: homeserver.pid
signing_key_path: localhost.signing.key
report_stats: false
media_store_path: media
log_config: log.yaml
database: {{name: sqlite3, args: {{database: homeserver.db}}}}
trusted_key_servers: []
suppress_key_server_warning: true
macaroon_secret_key: trial
form_secret: trial
enable_registration: true
enable_registration_without_verification: true
bcrypt_rounds: 4
rc_registration: {{per_second: 1000, burst_count: 1000}}
rc_login:
  address: {{per_second: 1000, burst_count: 1000}}
  account: {{per_second: 1000, burst_count: 1000}}
listeners:
  - port: {port}
    type: http
    bind_addresses: ['::1', '127.0.0.1']
    resources: [{{names: [client]}}]
"""

LOG = """
version: 1
handlers: {console: {class: logging.StreamHandler}}
root: {level: WARNING, handlers: [console]}
"""


class Synapse(PythonProgram):
    """
    Synapse, with the database that needs no server.
    """

    name = "matrix-synapse"
    packages = ("matrix-synapse",)
    slow = True

    def prepare(self, stage: Stage) -> None:
        """
        Write the configuration, and a key.
        """
        self._count = 0
        stage.write("homeserver.yaml", SETTINGS.format(port=stage.free))
        stage.write("log.yaml", LOG)
        (stage.folder / "media").mkdir()
        key = stage.folder / "localhost.signing.key"
        run(self.bin / "generate_signing_key", "-o", key)

    def words(self, stage: Stage) -> Sequence[str]:
        """
        See L{PythonProgram.words}.
        """
        return ["python", "-m", "synapse.app.homeserver", "-c", "homeserver.yaml"]

    def job(self, stage: Stage) -> str:
        """
        Register a user, log in, and ask who that is.
        """
        self._count += 1
        name, client = f"user{self._count}", "/_matrix/client"
        assert "v1.1" in self._ask(stage, f"{client}/versions")["versions"]
        made = self._ask(
            stage,
            f"{client}/v3/register",
            username=name,
            password="secret",
            auth={"type": "m.login.dummy"},
        )
        assert made["user_id"] == f"@{name}:localhost", made
        identifier = {"type": "m.id.user", "user": name}
        token = self._ask(
            stage,
            f"{client}/v3/login",
            type="m.login.password",
            identifier=identifier,
            password="secret",
        )["access_token"]
        who = self._ask(stage, f"{client}/v3/account/whoami", token)
        assert who["user_id"] == made["user_id"], who
        return "registered a user, logged in, asked versions and whoami"

    @staticmethod
    def _ask(stage: Stage, page: str, token: str = "", **fields: Any) -> Any:
        url = f"http://127.0.0.1:{stage.port}{page}"
        data = json.dumps(fields).encode() if fields else None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(url, data, headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.load(response)


PROGRAMS = [Synapse()]
