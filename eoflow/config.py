"""Settings: from the environment (`EOFLOW_*`), never from a file that could hold a secret."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from eoflow.errors import BadInput


class Settings(BaseSettings):
    """What a deployment may set. Each field is the environment variable `EOFLOW_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="EOFLOW_", extra="ignore")

    workspace: str = Field(default="./eoflow-data", description="folder or object-store URL of the workspace")
    dask: str | None = Field(default=None, description="address of a Dask scheduler; threads of this process if unset")
    cache: str | None = Field(
        default=None, description="local folder for caches; inside the workspace if that is local"
    )
    s3_endpoint: str | None = Field(default=None, description="endpoint URL of an S3-compatible service")
    s3_region: str = Field(default="us-east-1", description="region of the S3 bucket")
    s3_allow_http: bool = Field(default=False, description="allow plain http to the endpoint (tests, local services)")
    s3_anonymous: bool = Field(default=False, description="read public buckets without credentials")
    retries: int = Field(default=4, ge=0, description="tries again after a transient fetch error")
    runtime: Literal["auto", "eager", "onnx", "int8", "bf16"] = Field(
        default="auto", description="what runs image networks: auto is ONNX Runtime on large scenes where installed"
    )
    memory_mb: int = Field(default=1024, ge=64, description="memory that one batch of work may use, in MiB")


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process (read once; `settings.cache_clear()` reads them again).

    Raises BadInput naming the variable whose value cannot be used.
    """
    try:
        return Settings()
    except ValidationError as e:
        first = e.errors()[0]
        name = f"EOFLOW_{first['loc'][0]}".upper()
        raise BadInput(f"{name} cannot be '{first['input']}'", where="environment",
                       todo=first["msg"][0].lower() + first["msg"][1:]) from e  # fmt: skip
