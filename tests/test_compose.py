"""Dockerfile and docker-compose.yml against the programs they start; no Docker engine needed."""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from pydantic_settings import BaseSettings

from marketplace.config import MarketConfig
from relay.config import RelayConfig
from tests.command_lines import PROGRAMS, command_of, find_fault, parameters_of

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
# programs that read settings of their own from the environment, beside their options
SETTINGS: dict[str, type[BaseSettings]] = {
    "piecework-market": MarketConfig,
    "piecework-relay": RelayConfig,
}


@dataclass
class Stage:
    """What the stages of the Dockerfile say, with what they inherit."""

    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    ports: set[str] = field(default_factory=set)
    """`8470`, or `4001/udp`."""
    volumes: set[str] = field(default_factory=set)
    extras: set[str] = field(default_factory=set)
    copied: list[str] = field(default_factory=list)


def _stages() -> dict[str, Stage]:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    stages: dict[str, Stage] = {}
    stage = Stage()
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        match word:
            case "FROM":
                base, _, name = rest.partition(" AS ")
                before = stages.get(base, Stage())
                stage = Stage(
                    environment=dict(before.environment),
                    user=before.user,
                    copied=list(before.copied),
                )
                stages[name] = stage
            case "ENTRYPOINT":
                stage.entrypoint = json.loads(rest)
            case "CMD":
                stage.command = json.loads(rest)
            case "HEALTHCHECK":
                stage.health = json.loads(rest.partition("CMD ")[2])
            case "ENV":
                stage.environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
            case "USER":
                stage.user = rest
            case "EXPOSE":
                stage.ports |= {port.removesuffix("/tcp") for port in rest.split()}
            case "VOLUME":
                stage.volumes |= set(rest.split())
            case "COPY":
                stage.copied += rest.split()[:-1]
            case "RUN" if "pip install" in rest:
                stage.extras |= set(re.findall(r"\.\[(\w+)\]", rest))
            case "" | "#" | "RUN" | "ARG" | "WORKDIR":
                pass
            case _:
                assert line.startswith("#"), f"this test does not know {word}"
    return stages


STAGES = _stages()
IMAGES = {
    service["image"]: STAGES[service["build"]["target"]]
    for service in SERVICES.values()
    if "build" in service
}


def _command(name: str) -> list[str]:
    service = SERVICES[name]
    image = IMAGES[service["image"]]
    return [*image.entrypoint, *service.get("command", image.command)]


@pytest.mark.parametrize("name", ["node", "marketplace", "relay"])
def test_image_starts_its_program_as_nobody_in_particular(name):
    stage = STAGES[name]
    assert stage.entrypoint[0] in PROGRAMS
    assert stage.user not in ("root", "0")
    assert find_fault([*stage.entrypoint, *stage.command]) == ""
    assert stage.volumes == {"/data"}


def test_images_have_the_extras_they_need_and_no_more():
    assert STAGES["node"].extras == {"torch"}
    assert STAGES["marketplace"].extras == {"market"}
    assert STAGES["relay"].extras == set()


def test_everything_that_is_copied_is_there_and_every_package_is_copied():
    copied = STAGES["node"].copied
    assert all((ROOT / path).exists() for path in copied)
    packages = {path.parent.name for path in ROOT.glob("*/py.typed")}
    assert packages <= set(copied)
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    assert set(copied) <= kept


@pytest.mark.parametrize("name", sorted(SERVICES))
class TestService:
    def test_command_is_one_that_the_program_takes(self, name):
        assert find_fault(_command(name)) == ""

    def test_environment_is_made_of_settings(self, name):
        service = SERVICES[name]
        given = {**IMAGES[service["image"]].environment, **service.get("environment", {})}
        known = _environment_of(_command(name)[0])
        assert {key for key in given if key.startswith("PIECEWORK_")} <= known

    def test_ports_are_those_it_listens_on(self, name):
        service, command = SERVICES[name], _command(name)
        for published in service.get("ports", ()):
            _, host_port, port = published.rsplit(":", 2)
            number, _, kind = port.partition("/")
            assert host_port == number
            assert port in IMAGES[service["image"]].ports
            options = ("--udp-port", "--other-udp-port") if kind == "udp" else ("--port",)
            assert number in {_option(command, option) for option in options}
            assert _option(command, "--host") == "0.0.0.0", "loopback cannot be published"

    def test_volumes_are_declared_and_hold_the_home(self, name):
        service = SERVICES[name]
        image = IMAGES[service["image"]]
        homes = {value for key, value in image.environment.items() if key.endswith("_HOME")}
        for volume in service["volumes"]:
            source, target = volume.split(":")
            assert source in COMPOSE["volumes"]
            assert {target} == image.volumes == homes

    def test_what_it_waits_for_can_become_healthy(self, name):
        for other, how in SERVICES[name].get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert IMAGES[SERVICES[other]["image"]].health

    def test_urls_name_a_service_and_its_port(self, name):
        for word in _command(name):
            if word.startswith("http://"):
                url = urlsplit(word)
                assert str(url.port) in IMAGES[SERVICES[url.hostname]["image"]].ports


def test_health_checks_are_commands_that_exist():
    for image in IMAGES.values():
        program, *rest = image.health
        if program in PROGRAMS:
            assert find_fault(image.health) == ""
        else:
            assert (program, rest[0]) == ("python", "-c")
            compile(rest[1], "health", "exec")


def test_every_volume_and_image_is_used():
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert used == set(COMPOSE["volumes"])
    assert {service["image"] for service in SERVICES.values()} == set(IMAGES)


def test_topology_is_the_demos():
    programs = [_command(name)[:2] for name in SERVICES]
    assert programs.count(["piecework", "join"]) == 3
    assert programs.count(["piecework", "gateway"]) == 1
    for program in ("piecework-market", "piecework-relay"):
        assert [command[0] for command in programs].count(program) == 1


def _environment_of(program: str) -> set[str]:
    """Every environment variable the program reads."""
    names: set[str] = set()
    if settings := SETTINGS.get(program):
        prefix = settings.model_config["env_prefix"]
        names |= {f"{prefix}{field_name}".upper() for field_name in settings.model_fields}
    for parameter in parameters_of(command_of(program)):
        variables = getattr(parameter, "envvar", None) or ()
        names |= {variables} if isinstance(variables, str) else set(variables)
    return names


def _option(command: list[str], name: str) -> str | None:
    return command[command.index(name) + 1] if name in command else None
