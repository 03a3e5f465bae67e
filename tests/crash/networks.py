"""Each role's way to the broker, which can be cut, and each role's metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deploy.run.spawn import Process, Spawn
from deploy.settings.variables import ENV_PREFIX
from tests.support.broker_proxy import BrokerProxy
from tests.support.ports import lasting_port


class Networks:
    """A proxy for each role process, kept over its restarts. broker_port: as it is now."""

    def __init__(self, broker_port: Callable[[], int]) -> None:
        self._broker_port = broker_port
        self._proxies: dict[str, BrokerProxy] = {}
        self.metrics_ports: dict[str, int] = {}
        """By the process's name."""

    def of(self, name: str) -> BrokerProxy:
        """The network of `role-n`."""
        if name not in self._proxies:
            self._proxies[name] = BrokerProxy(self._broker_port)
        return self._proxies[name]

    def behind(self, spawn: Spawn) -> Spawn:
        """Start roles so that they know the broker by their proxy's address only."""

        def spawn_behind(argv: Sequence[str], env: Mapping[str, str], log_path: Path) -> Process:
            role, instance = argv[argv.index("run") + 1], argv[argv.index("--instance") + 1]
            name = f"{role}-{instance}"
            port = self.metrics_ports.setdefault(name, lasting_port())
            own = {
                f"{ENV_PREFIX}KAFKA__BOOTSTRAP_SERVERS": self.of(name).bootstrap,
                f"{ENV_PREFIX}METRICS__PORT": str(port),
            }
            return spawn(argv, {**env, **own}, log_path)

        return spawn_behind

    def heal(self) -> None:
        """All of them."""
        for proxy in self._proxies.values():
            proxy.heal()

    def close(self) -> None:
        """Cut everybody off for good."""
        for proxy in self._proxies.values():
            proxy.close()
