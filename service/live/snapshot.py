"""What a worker serves at one moment, and who answers whom."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from service.catalogue.placements import Prepared
from service.live.deployment import Deployment, UnknownPlacement
from service.ranking.served import ServedBundle

Role = Literal["champion", "challenger", "shadow"]


@dataclass(frozen=True)
class Snapshot:
    """All that an answer depends on besides the session; an answer is made from one of these."""

    deployment: Deployment = field(default_factory=Deployment)
    hidden: frozenset[str] = frozenset()
    champion: ServedBundle | None = None  # until a new champion is loaded, the one before it
    challenger: ServedBundle | None = None
    shadow: ServedBundle | None = None
    placements: Mapping[str, Prepared] = field(default_factory=dict)

    def placement(self, name: str) -> Prepared:
        """A placement that answers can be made from. Raises `UnknownPlacement`."""
        prepared = self.placements.get(name)
        if prepared is None or prepared.problem is not None:
            raise UnknownPlacement(name, list(self.placements), prepared.problem if prepared else None)
        return prepared

    @property
    def bundles(self) -> dict[Role, ServedBundle]:
        """What is loaded, by role."""
        roles: tuple[Role, ...] = ("champion", "challenger", "shadow")
        return {role: served for role in roles if (served := getattr(self, role)) is not None}

    def version(self, version: str) -> ServedBundle | None:
        """A loaded version, whatever its role."""
        return next((served for served in self.bundles.values() if served.version == version), None)

    def answering(self, session_id: str | None) -> ServedBundle | None:
        """Who answers a session: always the same one, while the deployment stays as it is."""
        if self.challenger is None or session_id is None:
            return self.champion
        is_challenged = bucket(session_id, self.challenger.version) < self.deployment.challenger_share
        return self.challenger if is_challenged else self.champion


def bucket(session_id: str, experiment: str) -> float:
    """Where a session falls in [0, 1): the same for ever, and independent from one experiment to another."""
    digest = hashlib.blake2b(f"{experiment}\x1f{session_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
