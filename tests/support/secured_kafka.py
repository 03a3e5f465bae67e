"""A local Kafka with a second listener, SASL over TLS, and an authorizer."""

from __future__ import annotations

from pathlib import Path

import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from cryptography.hazmat.primitives import serialization

from deploy.brokers.local import LocalKafka
from stream.broker_properties import Property
from stream.kafka.client import Connection
from tests.support.ports import lasting_port

USER, PASSWORD = "reader", "right-password"


class SecuredKafka(LocalKafka):
    """`connection` is everybody's who may do everything, in plain text; `secured` is where USER logs in.

    `allow.everyone.if.no.acl.found` is on: USER may do all but what a resource's ACLs leave out.
    """

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        ca = trustme.CA()
        self.ca = data_dir / "ca.pem"
        ca.cert_pem.write_to_path(str(self.ca))
        issued = ca.issue_cert("127.0.0.1", "localhost")
        self._key_store = data_dir / "server.pem"
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
        pkcs8 = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._key_store.write_bytes(pkcs8 + b"".join(part.bytes() for part in issued.cert_chain_pems))
        self.secured_bootstrap = f"127.0.0.1:{lasting_port()}"
        super().__init__(data_dir)

    @property
    def properties(self) -> dict[str, Property]:
        """With which USER gets in."""
        return {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.username": USER,
            "sasl.password": PASSWORD,
            "ssl.ca.location": str(self.ca),
        }

    @property
    def secured(self) -> Connection:
        """USER's."""
        return Connection(self.secured_bootstrap, self.properties, identity=self.connection.identity)

    def permit(self, topic: str, operation: AclOperation, permission: AclPermissionType) -> AclBinding:
        """One rule for USER on a topic; in force on return, as far as the broker that answers goes."""
        binding = AclBinding(
            ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, f"User:{USER}", "*", operation, permission
        )
        admin = self.connection.admin()
        admin.create_acls([binding])[binding].result(20)
        return binding

    def withdraw(self, binding: AclBinding) -> None:
        """Delete a rule."""
        admin = self.connection.admin()
        only = AclBindingFilter(
            binding.restype, binding.name, binding.resource_pattern_type, binding.principal, binding.host,
            binding.operation, binding.permission_type,
        )  # fmt: skip
        assert admin.delete_acls([only])[only].result(20) == [binding]

    def _server_properties(self) -> dict[str, str | int]:
        properties = super()._server_properties()
        listener = "listener.name.sasl_ssl"
        properties["listeners"] = f"{properties['listeners']},SASL_SSL://{self.secured_bootstrap}"
        properties["advertised.listeners"] = f"{properties['advertised.listeners']},SASL_SSL://{self.secured_bootstrap}"
        properties["listener.security.protocol.map"] = (
            f"{properties['listener.security.protocol.map']},SASL_SSL:SASL_SSL"
        )
        return properties | {
            f"{listener}.sasl.enabled.mechanisms": "PLAIN",
            f"{listener}.plain.sasl.jaas.config": (
                f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
            ),
            f"{listener}.ssl.keystore.type": "PEM",
            f"{listener}.ssl.keystore.location": str(self._key_store),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
            "super.users": "User:ANONYMOUS",
        }
