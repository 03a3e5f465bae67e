"""Apache Kafka's jars, fetched once by Maven into a cache folder that appears whole or not at all."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from store.base.errors import BrokerError
from store.base.file_lock import lock
from store.base.files import read_json, write_json

KAFKA_VERSION = "4.1.1"
JAVA_MINIMUM = 17
FETCH_SECONDS = 600.0
_COPY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.0:copy-dependencies"
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>anchorstream</groupId><artifactId>kafka-run</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""
_INSTALL = "install Java 17 or newer and Maven (Debian/Ubuntu: openjdk-17-jre-headless maven), or use embedded"


def cache_dir() -> Path:
    """`$ANCHORSTREAM_CACHE`, else `anchorstream` under the user's cache folder."""
    if configured := os.environ.get("ANCHORSTREAM_CACHE"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anchorstream"


def java() -> str:
    """Path of a Java that is new enough.

    Raises:
        BrokerError: none on PATH, or too old.
    """
    path = shutil.which("java")
    if path is None:
        raise BrokerError("there is no `java` on PATH", action=_INSTALL, code="java_missing")
    text = subprocess.run([path, "-version"], capture_output=True, text=True, check=False).stderr  # goes to stderr
    version = text.partition('"')[2].partition('"')[0]
    major = version.split(".")[0].split("-")[0]
    if not major.isdigit() or int(major) < JAVA_MINIMUM:
        raise BrokerError(
            f"{path} is Java {version or '(unknown)'}; Kafka {KAFKA_VERSION} needs {JAVA_MINIMUM}",
            action=_INSTALL,
            code="java_missing",
        )
    return path


def ensure_jars() -> Path:
    """Folder with all jars of Kafka's broker; fetches them (46 files, 43 MB) the first time.

    Processes that come at the same time wait for the first. A folder that is incomplete or altered is fetched anew.

    Raises:
        BrokerError: Maven is missing or failed.
    """
    home = cache_dir() / f"kafka-{KAFKA_VERSION}"
    home.parent.mkdir(parents=True, exist_ok=True)
    held = lock(home.parent / f".kafka-{KAFKA_VERSION}.lock", wait_seconds=math.inf)
    assert held is not None
    with held:
        if not _complete(home):
            _fetch(home)
    return home / "lib"


def _fetch(home: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerError("there is no `mvn` on PATH to fetch Kafka with", action=_INSTALL, code="maven_missing")
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=f"{home.name}.") as folder:
        part = Path(folder)
        (part / "pom.xml").write_text(_POM, encoding="utf-8")
        command = [maven, "-q", "-B", _COPY_PLUGIN, "-DincludeScope=runtime", f"-DoutputDirectory={part / 'lib'}"]
        try:
            result = subprocess.run(
                command, cwd=part, capture_output=True, text=True, check=False, timeout=FETCH_SECONDS
            )
        except subprocess.TimeoutExpired as exc:
            raise BrokerError(
                f"Maven did not fetch Kafka {KAFKA_VERSION} within {FETCH_SECONDS:g} s",
                action="check the network and Maven's settings.xml (proxy, mirror)",
                code="maven_failed",
            ) from exc
        if result.returncode != 0:
            tail = "\n".join((result.stdout + result.stderr).strip().splitlines()[-15:])
            raise BrokerError(
                f"Maven could not fetch Kafka {KAFKA_VERSION}:\n{tail}",
                action="check the network and Maven's settings.xml (proxy, mirror)",
                code="maven_failed",
            )
        write_json(part / "manifest.json", {jar.name: _digest(jar) for jar in sorted((part / "lib").glob("*.jar"))})
        (part / "ready").mkdir()
        for name in ("lib", "pom.xml", "manifest.json"):
            (part / name).rename(part / "ready" / name)
        if home.exists():
            home.rename(part / "old")
        (part / "ready").rename(home)


def _complete(home: Path) -> bool:
    manifest = read_json(home / "manifest.json")
    if not manifest or not any(name.startswith("kafka_2.13") for name in manifest):
        return False
    jars = {jar.name: jar for jar in (home / "lib").glob("*.jar")}
    return jars.keys() == manifest.keys() and all(_digest(jar) == manifest[name] for name, jar in jars.items())


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "blake2b").hexdigest()
