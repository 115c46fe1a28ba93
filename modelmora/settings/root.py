"""The settings of one process: read once, validated whole, frozen."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, PrivateAttr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from modelmora.errors import Fault
from modelmora.settings.explained import Explained
from modelmora.settings.faults import SettingsError, masked, unknown, wrong
from modelmora.settings.groups import (
    ApiSettings,
    CacheSettings,
    DatabaseSettings,
    EventsSettings,
    FetchSettings,
    GrpcSettings,
    HttpSettings,
    IngestSettings,
    LimitSettings,
    LogSettings,
    ObjectsSettings,
    RunnerSettings,
    SubscriberSettings,
    TracingSettings,
    VectorsSettings,
    WeightsSettings,
    setting,
)
from modelmora.settings.rules import contradictions
from modelmora.settings.variables import PREFIX, Given, Variable, declared, given, nested

DOTENV = Path(".env")


def bundle_dir() -> Path:
    """The folder that service.py stands in; the working directory where only the package is installed."""
    beside = Path(__file__).resolve().parents[2]
    return beside if (beside / "service.py").is_file() else Path.cwd()


def user_data_dir() -> Path:
    """Where this user's programs keep their data; raises SettingsError for a user without a home."""
    named = Path(os.environ.get("XDG_DATA_HOME", ""))
    if named.is_absolute():  # the XDG specification: a relative one is ignored
        return named / "modelmora"
    try:
        home = Path.home()
    except RuntimeError as error:
        raise SettingsError([wrong("MODELMORA_DATA_DIR", "", "a folder, since this user has no home")]) from error
    data = home / "Library" / "Application Support" if sys.platform == "darwin" else home / ".local" / "share"
    return data / "modelmora"


def _expanded(path: Path | str) -> Path:
    """With `~` resolved; unlike `Path.expanduser` it leaves the `~` of a user who has no home, without raising."""
    return Path(os.path.expanduser(path))


def _absolute(path: Path) -> Path:
    whole = _expanded(path)
    if not whole.is_absolute():
        raise ValueError("relative")
    return whole


def _in_bundle(path: Path) -> Path:
    return bundle_dir() / _expanded(path)


class Settings(BaseSettings):
    """All settings. `Settings.load()` reads them from outside; the constructor reads nothing.

    The same process environment gives the same settings in every process: a relative registry is
    taken from the bundle's folder, and no other path may be relative.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        env_ignore_empty=True,
        validate_default=True,
    )

    variables: ClassVar[Mapping[str, Variable]]
    """Every setting by the name of its variable."""

    http: HttpSettings = HttpSettings()
    grpc: GrpcSettings = GrpcSettings()
    api: ApiSettings = ApiSettings()
    limits: LimitSettings = LimitSettings()
    fetch: FetchSettings = FetchSettings()
    runner: RunnerSettings = RunnerSettings()
    database: DatabaseSettings = setting("filled in below", "", default=None)
    objects: ObjectsSettings = ObjectsSettings()
    weights: WeightsSettings = WeightsSettings()
    vectors: VectorsSettings = VectorsSettings()
    cache: CacheSettings = CacheSettings()
    events: EventsSettings = EventsSettings()
    ingest: IngestSettings = IngestSettings()
    subscriber: SubscriberSettings = SubscriberSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    data_dir: Annotated[Path, AfterValidator(_absolute)] = setting(
        "the folder for everything that is kept: database, model files",
        "an absolute path, or one that starts with ~",
        default_factory=user_data_dir,
    )
    registry: Annotated[Path, AfterValidator(_in_bundle)] = setting(
        "the file that declares models and runner groups",
        "a path; a relative one starts at the folder of service.py",
        default=Path("registry/ModelRegistry.yaml"),
    )
    allow_anonymous: bool = setting(
        "serve whoever reaches a port that listens beyond this machine", "true or false", default=False
    )

    _given: Mapping[str, Given] = PrivateAttr(default_factory=dict)

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, *, env_file: Path | None = DOTENV) -> Self:
        """Settings of `environ` (None: the process's) and, below it, of `env_file`; touches nothing else.

        Raises SettingsError with every fault there is, an unknown `MODELMORA_` variable among them.
        """
        all_given = given(cls, environ, env_file)
        values = {name: all_given[name] for name in cls.variables if name in all_given}
        faults = [*unknown(all_given.keys() - values.keys(), cls.variables), *cls._wrong_values(values)]
        faulty = {fault.field for fault in faults}
        # What is left can be read, so the rules between settings are asked as well.
        settings = cls(**nested(cls, {name: each for name, each in values.items() if name not in faulty}))
        faults += [broken.fault for broken in contradictions(settings) if not broken.variables & faulty]
        if faults:
            raise SettingsError(sorted(faults, key=lambda fault: fault.field or ""))
        settings._given = values
        return settings

    def explain(self) -> list[Explained]:
        """Every setting with its value, where that comes from, and what it takes."""
        return [self._explained(variable) for variable in self.variables.values()]

    def make_data_dir(self) -> Path:
        """The data folder, made for this user alone when it is not there yet."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.data_dir

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed in: `load` looks outside, and knows what came from where."""
        return (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _default_database(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The database stands in the data folder unless it has a URL of its own."""
        group = data.get("database") or {}
        if isinstance(group, DatabaseSettings):
            return data
        folder = _expanded(data.get("data_dir") or user_data_dir()).absolute()
        return {**data, "database": {"url": f"sqlite+aiosqlite:///{folder}/modelmora.db", **group}}

    @classmethod
    def _wrong_values(cls, values: Mapping[str, Given]) -> Iterator[Fault]:
        try:
            cls(**nested(cls, values))
        except ValidationError as error:
            paths = {variable.path: variable for variable in cls.variables.values()}
            places = (tuple(str(part) for part in each["loc"]) for each in error.errors())
            for path in dict.fromkeys(place[:1] if place[:1] in paths else place[:2] for place in places):
                variable = paths[path]
                yield wrong(variable.name, values[variable.name].value, variable.takes)

    def _explained(self, variable: Variable) -> Explained:
        each = self._given.get(variable.name)
        return Explained(
            variable=variable.name,
            value=_shown(_at(self, variable.path)),
            source=each.source if each else "default",
            default=_shown(_at(_defaults(self), variable.path)),
            takes=variable.takes,
            about=variable.about,
        )


Settings.variables = {variable.name: variable for variable in declared(Settings)}


def _defaults(settings: Settings) -> Settings:
    """As if nothing but the data folder had been set: other defaults stand on it."""
    return Settings(data_dir=settings.data_dir)


def _at(settings: Settings, path: Sequence[str]) -> object:
    value: object = settings
    for name in path:
        value = getattr(value, name)
    return value


def _shown(value: object) -> str:
    match value:
        case None | ():
            return ""
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(value)
        case _:
            return masked(str(value))
