"""Settings: MMSEARCH_ environment variables, read once at the edge (command line, server).

Everything below the edge takes plain values.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mmsearch import devices
from mmsearch.types import DecodeLimits

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

#: No letters that addresses write with an escape, so there is one way to write it.
_PREFIX = re.compile(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~-]+)*")
_MAX_PREFIX = 200


def default_library() -> Path:
    """The platform's data folder for this user, for example ~/.local/share/mmsearch."""
    return Path(platformdirs.user_data_dir("mmsearch", appauthor=False))


def path_prefix(text: str) -> str | None:
    """A path before all of a service's own, without a slash at its end ("/photos"); "" for none,
    and None where it is not one."""
    plain = text.removesuffix("/")
    return plain if len(plain) <= _MAX_PREFIX and _PREFIX.fullmatch(plain) else None


def _items(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _network(text: str) -> IPNetwork:
    """The addresses that are meant. Raises ValueError, which says what to write."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"{text!r} is no address: write 127.0.0.1, or a network as 172.18.0.0/16"
        ) from None
    if network.prefixlen == 0:
        raise ValueError(f"{text} is everybody: name the proxy's own address")
    if "/" in text and network.prefixlen < network.max_prefixlen:
        address = ipaddress.ip_address(text.partition("/")[0])
        if address != network.network_address:
            raise ValueError(f"{text} is not clear: write {address} or {network}")
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None:
        raise ValueError(f"{text} is of IPv4: write it as {mapped}")
    return network


class Settings(BaseSettings):
    """What the environment may decide. Flags of a command win over these."""

    # An empty variable is one that is not set, as for `mmsearch.cli.options.plain_library_path`.
    model_config = SettingsConfigDict(
        env_prefix="MMSEARCH_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    library: Path = Field(default_factory=default_library)
    model: str | None = None
    device: str = "auto"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    max_pixels: Annotated[int, Field(gt=0)] = 300_000_000
    max_file_bytes: Annotated[int, Field(gt=0)] = 1 << 30
    max_decode_seconds: Annotated[float, Field(gt=0)] = 60.0
    decode_processes: Annotated[int, Field(ge=0, le=256)] | None = None
    max_upload_bytes: Annotated[int, Field(gt=0)] = 64 << 20
    max_k: Annotated[int, Field(gt=0)] = 1000
    max_batch: Annotated[int, Field(gt=0)] = 32
    max_wait_ms: Annotated[float, Field(ge=0)] = 2.0
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    max_queue: Annotated[int, Field(gt=0)] = 256
    show_gps: bool = False
    keys_file: Path | None = None
    insecure_no_key: bool = False
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    trusted_proxies: Annotated[tuple[IPNetwork, ...], NoDecode] = ()
    root_path: str = ""
    rate_limit: Annotated[float, Field(ge=0)] | None = None
    log_format: Literal["text", "json"] = "text"

    @field_validator("device")
    @classmethod
    def _check_device(cls, given: str) -> str:
        return devices.check(given, several=True)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        """In the environment they stand with commas or spaces between them."""
        return _items(given) if isinstance(given, str) else given

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _read_networks(cls, given: object) -> object:
        return tuple(map(_network, _items(given))) if isinstance(given, str) else given

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, given: str) -> str:
        prefix = path_prefix(given)
        if prefix is None:
            raise ValueError(f"{given!r} is no path before others: write it as /photos")
        return prefix

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for origin in given:
            if not re.fullmatch(r"https?://[^/\s*@]+", origin):
                raise ValueError(f"{origin!r} is no origin: write it as https://photos.example")
        return given

    def decode_limits(self) -> DecodeLimits:
        """What is refused before it is decoded, as `mmsearch.decode` takes it."""
        return DecodeLimits(
            max_pixels=self.max_pixels,
            max_bytes=self.max_file_bytes,
            max_seconds=self.max_decode_seconds,
        )
